"""Tables of answers, one for each way of writing them: text, status, boxes, well-formed.

The image has 1000 pixels a side, so that one unit of every frame to a thousand is one pixel.
"""

from __future__ import annotations

from typing import Any

from reground.grounding.answers import Status

BOX = (10.0, 20.0, 30.0, 40.0)
OTHER = (50.0, 60.0, 70.0, 80.0)

OK, NO_ANSWER, UNPARSABLE = Status.OK, Status.NO_ANSWER, Status.UNPARSABLE
OUT_OF_BOUNDS, DEGENERATE = Status.OUT_OF_BOUNDS, Status.DEGENERATE

Table = list[tuple[str, Status, list[Any], bool]]

BOX_TOKENS: Table = [
    ("<|box_start|>(10,20),(30,40)<|box_end|>", OK, [BOX], True),
    ("<|box_start|>(10,20),(30,40)<|box_end|><|im_end|>", OK, [BOX], True),
    ("(10,20),(30,40)<|im_end|>\n<|endoftext|>", OK, [BOX], True),  # decoding dropped the tokens
    (
        "<|box_start|>(10,20),(30,40)<|box_end|>\n<|box_start|>(50,60),(70,80)<|box_end|>",
        OK,
        [BOX, OTHER],
        True,
    ),
    ("none", OK, [], True),
    ("boat(10,20),(30,40)", OK, [BOX], False),
    ("It's in the second image. (10,20),(30,40)", OK, [BOX], False),
    ("These images share no object.", UNPARSABLE, [], False),
    ("<|box_start|>(10,20),(30,40", UNPARSABLE, [], False),
    ("<|box_start|>10,20,30,40<|box_end|>", UNPARSABLE, [], False),
    ("<|box_start|><|box_end|>", UNPARSABLE, [], False),
    ("", NO_ANSWER, [], False),
    (" \n<|im_end|>", NO_ANSWER, [], False),
    ("<think>(10,20),(30,40)</think>", NO_ANSWER, [], False),
]

PAIRS: Table = [
    ("(10,20),(30,40)", OK, [BOX], True),
    ("(10, 20), (30, 40)", OK, [BOX], True),
    (" ( 10 ,20 ) , (30,40)\n", OK, [BOX], True),
    ("(10.0,20.00),(30.,40)", OK, [BOX], True),
    ("(10,20),(30,40)\n(50,60),(70,80)", OK, [BOX, OTHER], True),
    ("(10,20),(30,40),(50,60),(70,80)", OK, [BOX, OTHER], True),
    ("(10,20),(30,40)(50,60),(70,80)", OK, [BOX, OTHER], True),
    ("None", OK, [], True),
    ("The dog is at (10,20),(30,40).", OK, [BOX], False),
    ("No reasoning.</think>(10,20),(30,40)", OK, [BOX], False),  # the prompt opened the block
    ("<think>\n\n</think>\n\n(10,20),(30,40)", OK, [BOX], True),  # none, as chat templates say
    ("I see (1,2),(3,4)</think>", NO_ANSWER, [], False),
    ("<think>(1,2),(3,4)</think>(10,20),(30,40)", OK, [BOX], False),
    ("<think>(1,2),(3,4)", NO_ANSWER, [], False),
    ("<tool>(1,2),(3,4)</tool><rethink>(5,6),(7,8)</rethink>", NO_ANSWER, [], False),
    ("(10,20),(30,40),(50,60)", UNPARSABLE, [], False),  # a corner without a partner
    ("(10,20),(30,40)\n(50,60),(70,", UNPARSABLE, [], False),  # cut off
    ("(10,20),(30,40)\n(50", UNPARSABLE, [], False),
    ("(10,20)", UNPARSABLE, [], False),
    ("[10,20,30,40]", UNPARSABLE, [], False),  # another family's grammar is not guessed at
    ("(10,20,30,40)", UNPARSABLE, [], False),
    ("(nan,20),(30,40)", UNPARSABLE, [], False),
    ("(1e1,20),(30,40)", UNPARSABLE, [], False),
    ("(x1,y1),(x2,y2)", UNPARSABLE, [], False),
    ("nothing", UNPARSABLE, [], False),
    ("(\u0661\u0660,20),(30,40)", UNPARSABLE, [], False),  # digits of another script
    ("(" + "9" * 5000 + ",20),(30,40)", UNPARSABLE, [], True),
    ("(30,40),(10,20)", DEGENERATE, [], True),  # never turned the right way round
    ("(10,20),(10,40)", DEGENERATE, [], True),
    ("(10,40),(30,20)", DEGENERATE, [], True),
    ("(10,20),(30,40)\n(50,60),(50,80)", DEGENERATE, [], True),  # one bad box spoils the answer
    ("(10,20),(30,1011)", OUT_OF_BOUNDS, [], True),
    ("(-11,20),(30,40)", OUT_OF_BOUNDS, [], True),
    ("(10,20),(30," + "9" * 40 + ")", OUT_OF_BOUNDS, [], True),
    ("(1001,20),(1009,40)", DEGENERATE, [], True),  # nothing of it is inside
]

THINK: Table = [
    ("<think>a</think><answer>(10,20),(30,40)</answer>", OK, [BOX], True),
    ("<think>a</think><answer>(10, 20), (30, 40)</answer><|im_end|>", OK, [BOX], True),
    (" <think>a\nb</think>\n<answer> (10,20),(30,40)\n</answer>\n", OK, [BOX], True),
    ("<think></think><answer>(10,20),(30,40)\n(50,60),(70,80)</answer>", OK, [BOX, OTHER], True),
    ("<think>a</think><answer>none</answer>", OK, [], True),
    ("<think>a (1,2),(3,4)</think><answer>(10,20),(30,40)</answer>", OK, [BOX], True),
    ("<answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("<think>a</think>So: <answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("<think>a</think><answer>(10,20),(30,40)</answer>.", OK, [BOX], False),
    ("<think>a</think><answer>at (10,20),(30,40)</answer>", OK, [BOX], False),
    ("<answer>(10,20),(30,40)</answer><think>a</think>", OK, [BOX], False),
    ("<think>a</think><think>b</think><answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    (
        "<think>a<answer>(1,2),(3,4)</answer></think><answer>(10,20),(30,40)</answer>",
        OK,
        [BOX],
        False,
    ),
    ("<think>a</think>(1,2),(3,4)<answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("<answer>(1,2),(3,4)</answer><answer>(10,20),(30,40)</answer>", OK, [BOX], False),  # the last
    ("<answer>(10,20),(30,40)</answer><answer>(1,2),(3", OK, [BOX], False),  # the last closed one
    ("<answer>(10,20),(30,40)</answer><tool><answer>(1,2),(3,4)</answer></tool>", OK, [BOX], False),
    ("<answer><think>(1,2),(3,4)</think>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("a</think><answer>(10,20),(30,40)</answer>", OK, [BOX], False),
    ("<think>a</think><answer>(10,20),(30,40)", NO_ANSWER, [], False),  # never closed
    ("<think>a</think>(10,20),(30,40)", NO_ANSWER, [], False),
    ("<think>a<answer>(10,20),(30,40)</answer>", NO_ANSWER, [], False),  # all of it is a thought
    ("<answer>(10,20),(30,40)</answer></think>", NO_ANSWER, [], False),
    ("<tool><answer>(10,20),(30,40)</answer></tool>", NO_ANSWER, [], False),
    ("<rethink><answer>(10,20),(30,40)</answer></rethink>", NO_ANSWER, [], False),
    ("<answer><think>(10,20),(30,40)</think></answer>", NO_ANSWER, [], False),
    ("<think>a</think><answer> </answer>", NO_ANSWER, [], False),
    ("(10,20),(30,40)", NO_ANSWER, [], False),
    ("<ANSWER>(10,20),(30,40)</ANSWER>", NO_ANSWER, [], False),
    ("<think>a</think><answer>the left dog</answer>", UNPARSABLE, [], False),
    ("<think>a</think><answer>[10,20,30,40]</answer>", UNPARSABLE, [], False),
    ("<think>a</think><answer>(30,40),(10,20)</answer>", DEGENERATE, [], True),
    ("<think>a</think><answer>(10,20),(30,4000)</answer>", OUT_OF_BOUNDS, [], True),
]

JSON: Table = [
    ('[{"bbox_2d": [10, 20, 30, 40], "label": "the dog"}]', OK, [BOX], True),
    ('```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "dog"}\n]\n```', OK, [BOX], True),
    ('```\n{"bbox_2d": [10, 20, 30, 40]}\n```<|im_end|>', OK, [BOX], True),
    ('{"bbox_2d": [10, 20.0, 3e1, 40]}', OK, [BOX], True),
    ("[10, 20, 30, 40]", OK, [BOX], True),
    ("[[10, 20, 30, 40]]", OK, [BOX], True),
    ("[[10, 20, 30, 40], [50, 60, 70, 80]]", OK, [BOX, OTHER], True),
    ('[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [50, 60, 70, 80]}]', OK, [BOX, OTHER], True),
    ("[]", OK, [], True),
    ("```json\n[]\n```", OK, [], True),
    ('[{"bbox_2d": [10,20,30,40], "label": "sign \\"[1,2,3,4]\\""}]', OK, [BOX], True),
    ('[{"bbox_2d": [10,20,30,40], "label": "\\"bbox_2d\\": [1,2,3,4]"}]', OK, [BOX], True),
    ('Here it is:\n```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```', OK, [BOX], False),
    ('```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```json', OK, [BOX], False),
    ('```json\n[{"bbox_2d": [10, 20, 30, 40]}]', OK, [BOX], False),
    ('["{"bbox_2d": [10, 20, 30, 40], "label": "dog"}]', OK, [BOX], False),  # a real VLM-R1 slip
    ("The box is [10, 20, 30, 40].", OK, [BOX], False),
    ("{'bbox_2d': [10, 20, 30, 40]}", OK, [BOX], False),
    (
        '```json\n{"bbox_2d": [10,20,30,40]}\n``` and ```json\n{"bbox_2d": [50,60,70,80]}\n```',
        OK,
        [BOX, OTHER],
        False,
    ),
    ('<think>{"bbox_2d": [1, 2, 3, 4]}</think>[10, 20, 30, 40]', OK, [BOX], False),
    ('<tool>{"bbox_2d": [1, 2, 3, 4]}</tool>', NO_ANSWER, [], False),
    ("", NO_ANSWER, [], False),
    ("There is no such thing.", UNPARSABLE, [], False),
    ('[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [50, 60', UNPARSABLE, [], False),  # cut off
    ('{"bbox_2d": [10, 20, 30]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [10, 20, 30, 40, 50]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [10, 20, 30, "40"]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [true, 20, 30, 40]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [10, 20, 30, null]}', UNPARSABLE, [], False),
    ('{"bbox_2d": null}', UNPARSABLE, [], False),
    ('{"label": "dog"}', UNPARSABLE, [], False),
    ('[{"bbox_2d": [10, 20, 30, 40]}, {"label": "dog"}]', UNPARSABLE, [], False),
    ("[10, 20, 30]", UNPARSABLE, [], False),
    ("It is [10, 20, 30, 40], and [50, 60", UNPARSABLE, [], False),  # cut off
    ("[[]]", UNPARSABLE, [], False),
    ("{}", UNPARSABLE, [], False),
    ("42", UNPARSABLE, [], False),
    ("null", UNPARSABLE, [], False),
    ("(10,20),(30,40)", UNPARSABLE, [], False),
    ('{"bbox_2d": [NaN, 20, 30, 40]}', UNPARSABLE, [], True),
    ('{"bbox_2d": [10, 20, 30, Infinity]}', UNPARSABLE, [], True),
    ('{"bbox_2d": [10, 20, 30, 1e999]}', UNPARSABLE, [], True),
    ('{"bbox_2d": [10, 20, 30, ' + "9" * 5000 + "]}", UNPARSABLE, [], True),
    ('{"bbox_2d": [10, 20, 30, 1e308]}', OUT_OF_BOUNDS, [], True),
    ('{"bbox_2d": [-1e308, 20, 30, 1e308]}', OUT_OF_BOUNDS, [], True),
    ('{"bbox_2d": [30, 20, 10, 40]}', DEGENERATE, [], True),
    # A repeated key: every box counts.
    (
        '{"object_name": "a", "bbox_2d": [10,20,30,40], "object_name": "b", '
        '"bbox_2d": [50,60,70,80]}',
        OK,
        [BOX, OTHER],
        False,
    ),
    ('[{"bbox_2d": [10,20,30,40], "bbox_2d": [50,60,70,80]}]', OK, [BOX, OTHER], False),
    ('{"bbox_2d": [10,20,30,40], "bbox_2d": [10,20,30,40]}', OK, [BOX, BOX], False),
    ('{"bbox_2d": [10,20,30,40], "bbox_2d": null}', UNPARSABLE, [], False),
    ('{"bbox_2d": [10,20,30,40], "label": "a", "label": "b"}', OK, [BOX], False),
    # Boxes further down.
    ('{"objects": [{"bbox_2d": [10,20,30,40], "label": "dog"}]}', OK, [BOX], False),
    ('{"bbox_2d": [[10,20,30,40], [50,60,70,80]]}', OK, [BOX, OTHER], False),
    ('[{"bbox_2d": [[10,20,30,40]], "label": "dog"}]', OK, [BOX], False),
    ('[[{"bbox_2d": [10,20,30,40]}], [{"bbox_2d": [50,60,70,80]}]]', OK, [BOX, OTHER], False),
    ('{"image": {"objects": [[{"bbox_2d": [[[10,20,30,40]]]}]]}}', OK, [BOX], False),
    ('{"bbox_2d": [10,20,30,40], "parts": [{"bbox_2d": [50,60,70,80]}]}', OK, [BOX, OTHER], False),
    ('{"size": [9,9,9,9], "found": {"bbox_2d": [10,20,30,40]}}', OK, [BOX], False),
    ("[[[10,20,30,40]]]", OK, [BOX], False),
    ('{"a": ' * 40 + '{"bbox_2d": [10,20,30,40]}' + "}" * 40, OK, [BOX], False),
    ('Here: {"bbox_2d": [[10,20,30,40], [50,60,70,80]]}.', OK, [BOX, OTHER], False),
    ('{"objects": [{"bbox_2d": [10,20,30,40]}, {"label": "dog"}]}', UNPARSABLE, [], False),
    ('{"objects": [{"bbox_2d": [10,20,30,40]}, {"bbox_2d": [50,60]}]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [[10,20,30,40], [50,60]]}', UNPARSABLE, [], False),
    ('{"bbox_2d": [[10,20,30,40], []]}', UNPARSABLE, [], False),
    ('{"boxes": [[10,20,30,40]]}', UNPARSABLE, [], False),
    ('{"label": "sign [1,2,3,4]"}', UNPARSABLE, [], False),
    # Without the last bracket the same; a box that is cut off is none.
    ('{"objects": [{"bbox_2d": [10,20,30,40], "label": "dog"}]', OK, [BOX], False),
    ('{"bbox_2d": [[10,20,30,40], [50,60,70,80]]', OK, [BOX, OTHER], False),
    ('{"bbox_2d": [[10,20,30,40], [50,60,70,80]', OK, [BOX, OTHER], False),
    ('{"bbox_2d": [[10,20,30,40], [50,60,70,8', UNPARSABLE, [], False),
    ('{"bbox_2d": [[10,20,30,40]], "label": "do', OK, [BOX], False),
    ('{"label": "sign [1,2,3,4]"', UNPARSABLE, [], False),
    ("[[[10,20,30,40]]", OK, [BOX], False),
]

RETHINK: Table = [
    (
        "<think>a</think>\n<function>\nget_extra_ref_result()\n</function>"
        '<tool>{"reftool_1": "[{\\"bbox_2d\\": [1, 2, 3, 4]}]"}</tool>'
        '<rethink>It is wrong.</rethink><answer>{"bbox_2d": [10, 20, 30, 40]}</answer>',
        OK,
        [BOX],
        True,
    ),
    ("<think>a</think><rethink>b</rethink><answer>[10,20,30,40]</answer>", OK, [BOX], True),
    ("<think>a</think> x <rethink>b</rethink><answer>[10,20,30,40]</answer>", OK, [BOX], True),
    ("<think>a</think><answer>[10,20,30,40]</answer>", OK, [BOX], False),
    ("<rethink>b</rethink><think>a</think><answer>[10,20,30,40]</answer>", OK, [BOX], False),
    ("<think>a</think><rethink>b</rethink><answer>no idea</answer>", UNPARSABLE, [], True),
    ("<think>a</think><rethink>b</rethink><answer>[10,20,30,40]", NO_ANSWER, [], False),
    ("<think>a</think><rethink>b<answer>[10,20,30,40]</answer>", NO_ANSWER, [], False),
    (
        "<think>a</think><tool><rethink>b</rethink><answer>[1,2,3,4]</answer></tool>",
        NO_ANSWER,
        [],
        False,
    ),
]

THINK_JSON: Table = [
    (
        '<think>a</think>\n<answer>{"bbox_2d": [10, 20, 30, 40], "label": "dog"} </answer>',
        OK,
        [BOX],
        True,
    ),
    ('<think>a</think><answer> [ { "bbox_2d": [10, 20, 30, 40] } ] </answer>', OK, [BOX], True),
    (
        '<think>a</think>\n\n<answer>\n```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```\n</answer>',
        OK,
        [BOX],
        True,
    ),
    (
        '<think>a</think><answer>["{"bbox_2d": [10, 20, 30, 40], "label": "dog"}]</answer>',
        OK,
        [BOX],
        False,
    ),
    ('<think>{"bbox_2d": [1, 2, 3, 4]}</think><answer>[10, 20, 30, 40]</answer>', OK, [BOX], True),
    ('<answer>{"bbox_2d": [10, 20, 30, 40]}</answer>', OK, [BOX], False),
    ('<think>a</think>\n```json\n[{"bbox_2d": [10, 20, 30, 40]}]\n```', NO_ANSWER, [], False),
    ('<think>a</think><answer>{"bbox_2d": [10, 20, 30, 40]}', NO_ANSWER, [], False),
    ("<think>a</think><answer>none</answer>", UNPARSABLE, [], False),
    ('<think>a</think><answer>{"bbox_2d": [30, 20, 10, 40]}</answer>', DEGENERATE, [], True),
    ('<think>a</think><answer>{"bbox_2d": [10, 20, 30, 4000]}</answer>', OUT_OF_BOUNDS, [], True),
]
