"""Tables of answers of the baselines, in the form of :mod:`answer_tables`."""

from __future__ import annotations

from answer_tables import (
    BOX,
    BOX_TOKENS,
    DEGENERATE,
    JSON,
    NO_ANSWER,
    OK,
    OTHER,
    OUT_OF_BOUNDS,
    UNPARSABLE,
    Table,
)

MIGICIAN: Table = [
    *BOX_TOKENS,
    ("It's in the third image. <|box_start|>(10,20),(30,40)<|box_end|>", OK, [BOX], False),
    ("In Image-2 <|box_start|>(10,20),(30,40)<|box_end|>, in Image-3", OK, [BOX], False),
    ("<|box_start|>(10,20),(30,1200)<|box_end|>", OUT_OF_BOUNDS, [], True),
    ("<|box_start|>(30,40),(10,20)<|box_end|>", DEGENERATE, [], True),
]

INTERNVL: Table = [
    ("<ref>the dog</ref><box>[[10, 20, 30, 40]]</box>", OK, [BOX], True),
    ("<box>[[10,20,30,40]]</box><|im_end|>", OK, [BOX], True),
    ("<box>[[10, 20, 30, 40], [50, 60, 70, 80]]</box>", OK, [BOX, OTHER], True),
    (
        "<ref>a dog</ref><box>[[10, 20, 30, 40]]</box>\n"
        "<ref>a cat</ref><box>[[50, 60, 70, 80]]</box>",
        OK,
        [BOX, OTHER],
        True,
    ),
    ("[[10, 20, 30, 40]]", OK, [BOX], True),  # decoding dropped the tokens
    ("the dog[[10, 20, 30, 40]]", OK, [BOX], False),
    ("<ref>sign [1,2,3,4]</ref><box>[[10, 20, 30, 40]]</box>", OK, [BOX], True),
    ("Sure: <ref>the dog</ref><box>[[10, 20, 30, 40]]</box>.", OK, [BOX], False),
    ("<ref>the dog</ref><box>[[10, 20, 30, 40", UNPARSABLE, [], False),  # cut off
    ("<box>[[10, 20, 30, 40], [50, 60", UNPARSABLE, [], False),
    ("<box>[[10, 20, 30, 40]]</box><box>[[50", UNPARSABLE, [], False),
    ("<box>[[10, 20, 30]]</box>", UNPARSABLE, [], False),
    ("<box>[[10, 20, 30, 40, 50]]</box>", UNPARSABLE, [], False),
    ("<box>[[10, 20, 30, 40]]</box> not [[a, b, c, d]]", UNPARSABLE, [], False),
    ("<box>[10, 20, 30, 40]</box>", UNPARSABLE, [], False),  # another grammar
    ("<box>10 20 30 40</box>", UNPARSABLE, [], False),
    ("<box>[[]]</box>", UNPARSABLE, [], False),
    ("I cannot see a dog.", UNPARSABLE, [], False),
    ("none", OK, [], True),
    ("", NO_ANSWER, [], False),
    ("<box>[[30, 40, 10, 20]]</box>", DEGENERATE, [], True),
    ("<box>[[10, 20, 30, 1200]]</box>", OUT_OF_BOUNDS, [], True),
    ("<box>[[10, 20, 30, " + "9" * 5000 + "]]</box>", UNPARSABLE, [], True),
]

MINICPM_V: Table = [
    ("<box>10 20 30 40</box>", OK, [BOX], True),
    ("<ref>book</ref><box>10 20 30 40</box><|im_end|>", OK, [BOX], True),
    ("<box> 10  20 30 40 </box>\n<box>50 60 70 80</box>", OK, [BOX, OTHER], True),
    ("The book is at <box>10 20 30 40</box>.", OK, [BOX], False),
    ("none", OK, [], True),
    ("<box>10 20 30 40", UNPARSABLE, [], False),  # cut off
    ("<box>10 20 30 40</box><box>50 60", UNPARSABLE, [], False),
    ("<box>10 20 30 40</box><bo", OK, [BOX], False),  # a token is never cut
    ("<box>10 20 30</box>", UNPARSABLE, [], False),
    ("<box>10 20 30 40 50</box>", UNPARSABLE, [], False),
    ("<box>10, 20, 30, 40</box>", UNPARSABLE, [], False),
    ("<box>10 20 30 40<box>", UNPARSABLE, [], False),
    ("10 20 30 40", UNPARSABLE, [], False),  # numbers of a sentence
    ("<box>[[10, 20, 30, 40]]</box>", UNPARSABLE, [], False),
    ("<box></box>", UNPARSABLE, [], False),
    ("The lower right corner is at about 527,580.", UNPARSABLE, [], False),
    ("", NO_ANSWER, [], False),
    ("<box>30 40 10 20</box>", DEGENERATE, [], True),
    ("<box>10 20 10 40</box>", DEGENERATE, [], True),
    ("<box>10 20 30 1200</box>", OUT_OF_BOUNDS, [], True),
    ("<box>-11 20 30 40</box>", OUT_OF_BOUNDS, [], True),
]

COGVLM: Table = [
    ("[[010,020,030,040]]", OK, [BOX], True),
    ("[[010,020,030,040]]</s>", OK, [BOX], True),
    ("[[010, 020, 030, 040]]", OK, [BOX], True),
    ("[[010,020,030,040;050,060,070,080]]", OK, [BOX, OTHER], True),
    ("[[010,020,030,040]], [[050,060,070,080]]", OK, [BOX, OTHER], True),
    ("A dog [[010,020,030,040]] sits on a mat.", OK, [BOX], False),
    ("none", OK, [], True),
    ("[[010,020,030,04", UNPARSABLE, [], False),  # cut off
    ("[[010,020,030,040;050,060]]", UNPARSABLE, [], False),
    ("[[010,020,030,040;]]", UNPARSABLE, [], False),
    ("[[010,020,030,040]] and [[050", UNPARSABLE, [], False),
    ("[010,020,030,040]", UNPARSABLE, [], False),
    ("[[010,020],[030,040]]", UNPARSABLE, [], False),
    ("[[x0,y0,x1,y1]]", UNPARSABLE, [], False),
    ("There is no dog in the image.", UNPARSABLE, [], False),
    ("", NO_ANSWER, [], False),
    ("[[030,040,010,020]]", DEGENERATE, [], True),
    ("[[010,020,030,1200]]", OUT_OF_BOUNDS, [], True),
]

BRACKETS: Table = [
    ("[0.01, 0.02, 0.03, 0.04]", OK, [BOX], True),
    ("[0.010,0.020,0.030,0.040]", OK, [BOX], True),
    ("[0.01, 0.02, 0.03, 0.04]\n[0.05, 0.06, 0.07, 0.08]", OK, [BOX, OTHER], True),
    ("[0, 0, 1, 1]", OK, [(0, 0, 1000, 1000)], True),
    ("none", OK, [], True),
    ("The dog is at [0.01, 0.02, 0.03, 0.04].", OK, [BOX], False),
    ("[0.01, 0.02, 0.03", UNPARSABLE, [], False),  # cut off
    ("[0.01, 0.02, 0.03, 0.04], [0.05, 0.", UNPARSABLE, [], False),
    ("[0.01, 0.02, 0.03, 0.04], [0.05, 0.06, 0.07]", UNPARSABLE, [], False),
    ("[0.01, 0.02, 0.03, 0.04, 0.05]", UNPARSABLE, [], False),
    ("[[0.01, 0.02, 0.03, 0.04]]", UNPARSABLE, [], False),
    ("(0.01, 0.02, 0.03, 0.04)", UNPARSABLE, [], False),
    ("[x1, y1, x2, y2]", UNPARSABLE, [], False),
    ("[.01, .02, .03, .04]", UNPARSABLE, [], False),
    ("It is in the second image.", UNPARSABLE, [], False),
    ("", NO_ANSWER, [], False),
    ("[0.03, 0.04, 0.01, 0.02]", DEGENERATE, [], True),
    ("[0.01, 0.02, 0.01, 0.04]", DEGENERATE, [], True),
    ("[0.01, 0.02, 0.03, 1.2]", OUT_OF_BOUNDS, [], True),
    ("[-0.02, 0.02, 0.03, 0.04]", OUT_OF_BOUNDS, [], True),
    ("[10, 20, 30, 40]", OUT_OF_BOUNDS, [], True),  # thousandths are never taken for shares
]

MIG_BENCH: Table = [
    *BRACKETS,
    ("<box>[0.01, 0.02, 0.03, 0.04]</box>", OK, [BOX], True),  # the format that it is asked for
    ("<box>[0.01, 0.02, 0.03, 0.04]</box><|im_end|>", OK, [BOX], True),
    ("<box>[0.01, 0.02, 0.03, 0.04]", OK, [BOX], True),
    ("Image-2: <box>[0.01, 0.02, 0.03, 0.04]</box>", OK, [BOX], False),
    ("<box>[0.01, 0.02, 0.0", UNPARSABLE, [], False),
    ("<box>0.01 0.02 0.03 0.04</box>", UNPARSABLE, [], False),
]

SHIKRA: Table = [
    *(row for row in BRACKETS if "\n" not in row[0]),
    ("[0.010,0.020,0.030,0.040]</s>", OK, [BOX], True),
    ("[0.010,0.020,0.030,0.040;0.050,0.060,0.070,0.080]", OK, [BOX, OTHER], True),
    ("[0.010,0.020,0.030,0.040] [0.050,0.060,0.070,0.080]", OK, [BOX, OTHER], True),
    ("a brown teddy bear[0.010,0.020,0.030,0.040] in the image.", OK, [BOX], False),
    ("[0.010,0.020,0.030,0.040;0.050,0.060", UNPARSABLE, [], False),
    ("[0.010,0.020,0.030,0.040;0.050,0.060]", UNPARSABLE, [], False),
    ("A point [0.010,0.020], a box [0.010,0.020,0.030,0.040]", UNPARSABLE, [], False),
]

GROUNDING_GPT: Table = [
    *BRACKETS,
    ("[0.01, 0.02, 0.03, 0.04]</s>", OK, [BOX], True),
    ("The region is [0.01, 0.02, 0.03, 0.04].##", OK, [BOX], False),
    ("[0.01, 0.02, 0.03, 0.04;0.05, 0.06, 0.07, 0.08]", UNPARSABLE, [], False),
    ("{0.25, 0.75}", UNPARSABLE, [], False),  # a span of time, from a question about a video
]

GROUNDING_DINO: Table = [
    *JSON,
    ('[{"bbox_2d": [10.0, 20.0, 30.0, 40.0], "score": 0.81, "label": "dog"}]', OK, [BOX], True),
]

BASELINES: dict[str, Table] = {
    "migician": MIGICIAN,
    "internvl": INTERNVL,
    "minicpm_v": MINICPM_V,
    "cogvlm": COGVLM,
    "llava_onevision": MIG_BENCH,
    "mantis": MIG_BENCH,
    "mplug_owl3": MIG_BENCH,
    "shikra": SHIKRA,
    "grounding_gpt": GROUNDING_GPT,
    "grounding_dino": GROUNDING_DINO,
}
