"""Tables of answers of models behind servers, in the form of :mod:`answer_tables`."""

from __future__ import annotations

from typing import Any

from answer_tables import (
    BOX,
    DEGENERATE,
    JSON,
    NO_ANSWER,
    OK,
    OTHER,
    OUT_OF_BOUNDS,
    UNPARSABLE,
    Table,
)

BAD = (UNPARSABLE, [], False)

NOTHING: Table = [
    ("", NO_ANSWER, [], False),
    ("I cannot see it.", UNPARSABLE, [], False),
]


def of(unit: float, *numbers: float) -> tuple[Any, ...]:
    """Numbers that count ``unit`` to a side, in pixels of an image of 1000 x 1000."""
    return tuple(1000 * number / unit for number in numbers)


GEMINI: Table = [
    *NOTHING,
    ('[{"box_2d": [20, 10, 40, 30], "label": "dog"}]', OK, [BOX], True),
    ('```json\n[{"box_2d": [20, 10, 40, 30], "label": "dog"}]\n```', OK, [BOX], True),
    ('{"label": "dog", "box_2d": [20, 10, 40, 30]}', OK, [BOX], True),
    ("[20, 10, 40, 30]", OK, [BOX], True),
    (
        'Here: [{"box_2d": [20, 10, 40, 30]}, {"box_2d": [60, 50, 80, 70]}] as asked.',
        OK,
        [BOX, OTHER],
        False,
    ),
    ("[]", OK, [], True),
    ('{"box_2d": [[20, 10, 40, 30], [60, 50, 80, 70]]', OK, [BOX, OTHER], False),
    ('[{"bbox_2d": [20, 10, 40, 30]}]', UNPARSABLE, [], False),  # of another family
    ('[{"box_2d": [20, 10, 40, 30]}, {"box_2d": [60, 50', UNPARSABLE, [], False),  # cut off
    ('[{"box_2d": [20, 10, 40]}]', UNPARSABLE, [], False),
    ('[{"box_2d": [40, 10, 20, 30]}]', DEGENERATE, [], True),
    ('[{"box_2d": [20, 10, 1200, 30]}]', OUT_OF_BOUNDS, [], True),
]

PALIGEMMA: Table = [
    *NOTHING,
    ("<loc0256><loc0128><loc0768><loc0512> cat", OK, [of(1024, 128, 256, 512, 768)], True),
    ("<loc0256><loc0128><loc0768><loc0512>", OK, [of(1024, 128, 256, 512, 768)], True),
    (
        "<loc0256><loc0128><loc0768><loc0512> a cat ; <loc0000><loc0000><loc0512><loc0512> dog",
        OK,
        [of(1024, 128, 256, 512, 768), of(1024, 0, 0, 512, 512)],
        True,
    ),
    ("none", OK, [], True),
    ("<loc0256><loc0128><loc0768>", UNPARSABLE, [], False),
    ("<loc0256><loc0128><loc0768><loc0512> cat ; <loc0256><loc01", UNPARSABLE, [], False),
    ("<loc768><loc128><loc768><loc512>", UNPARSABLE, [], False),  # three digits
    ("<loc0768><loc0128><loc0256><loc0512> cat", DEGENERATE, [], True),
    ("<loc0256><loc0128><loc0768><loc2000> cat", OUT_OF_BOUNDS, [], True),
]

FLORENCE_2: Table = [
    *NOTHING,
    ("cat<loc_10><loc_20><loc_30><loc_40>", OK, [(10.5, 20.5, 30.5, 40.5)], True),
    ("</s><s>cat<loc_10><loc_20><loc_30><loc_40></s>", OK, [(10.5, 20.5, 30.5, 40.5)], True),
    (
        "a cat<loc_10><loc_20><loc_30><loc_40>dog<loc_0><loc_0><loc_999><loc_999>",
        OK,
        [(10.5, 20.5, 30.5, 40.5), (0.5, 0.5, 999.5, 999.5)],
        True,
    ),
    ("cat<loc_10><loc_20><loc_30>", UNPARSABLE, [], False),
    ("cat<loc_10><loc_20><loc_30><loc_4", UNPARSABLE, [], False),
    ("cat<loc_30><loc_20><loc_10><loc_40>", DEGENERATE, [], True),
]

DEEPSEEK_VL2: Table = [
    *NOTHING,
    (
        "<|ref|>The dog<|/ref|><|det|>[[111, 222, 333, 999]]<|/det|>",
        OK,
        [of(999, 111, 222, 333, 999)],
        True,
    ),
    ("<|det|>[[111, 222, 333, 444]]<|/det|>", OK, [of(999, 111, 222, 333, 444)], True),
    ("The dog[[111, 222, 333, 444]]", OK, [of(999, 111, 222, 333, 444)], False),  # marks dropped
    (
        "<|ref|>a<|/ref|><|det|>[[0, 0, 999, 999], [111, 222, 333, 444]]<|/det|>",
        OK,
        [(0, 0, 1000, 1000), of(999, 111, 222, 333, 444)],
        True,
    ),
    ("none", OK, [], True),
    ("<|ref|>a<|/ref|><|det|>[111, 222, 333, 444]<|/det|>", UNPARSABLE, [], False),
    ("<|ref|>a<|/ref|><|det|>[[111, 222, 33", UNPARSABLE, [], False),
    ("<|det|>[[333, 222, 111, 444]]<|/det|>", DEGENERATE, [], True),
    ("<|det|>[[111, 222, 333, 1200]]<|/det|>", OUT_OF_BOUNDS, [], True),
]

MOONDREAM: Table = [
    *NOTHING,
    (
        '{"objects": [{"x_min": 0.01, "y_min": 0.02, "x_max": 0.03, "y_max": 0.04}]}',
        OK,
        [BOX],
        True,
    ),
    ('{"x_min": 0.01, "y_min": 0.02, "x_max": 0.03, "y_max": 0.04}', OK, [BOX], True),
    ('{"objects": []}', OK, [], True),
    ('{"objects": [{"x_min": 0.01, "y_min": 0.02, "x_max": 0.03}]}', UNPARSABLE, [], False),
    ('{"objects": [{"x_min": 0.01, "y_min": 0.02, "x_m', UNPARSABLE, [], False),
    (
        '{"objects": [{"x_min": "0.01", "y_min": 0.02, "x_max": 1}]}',
        UNPARSABLE,
        [],
        False,
    ),
    (
        '{"objects": [{"x_min": 0.03, "y_min": 0.02, "x_max": 0.01, "y_max": 0.04}]}',
        DEGENERATE,
        [],
        True,
    ),
    (
        '{"objects": [{"x_min": 10, "y_min": 20, "x_max": 30, "y_max": 40}]}',
        OUT_OF_BOUNDS,
        [],
        True,
    ),
    (
        '{"x_min": 0.01, "y_min": 0.02, "x_max": 0.03, "y_max": 0.04, '
        '"x_min": 0.05, "y_min": 0.06, "x_max": 0.07, "y_max": 0.08}',
        OK,
        [BOX, OTHER],
        False,
    ),
    ('{"x_min": 0.01, "y_min": 0.02, "x_max": 0.03, "y_max": 0.04, "x_min": 0}', *BAD),
    (
        '{"found": {"objects": [{"x_min": 0.01, "y_min": 0.02, "x_max": 0.03, "y_max": 0.04}]}',
        OK,
        [BOX],
        False,
    ),
]

KOSMOS_2: Table = [
    *NOTHING,
    (
        "<grounding><phrase>a dog</phrase><object><patch_index_0044><patch_index_0863></object>",
        OK,
        [of(32, 12.5, 1.5, 31.5, 26.5)],
        True,
    ),
    ("<object><patch_index_0000><patch_index_0000></object>", OK, [of(32, 0, 0, 1, 1)], True),
    ("<object><patch_index_0000><patch_index_0005></object>", OK, [of(32, 0, 0, 6, 1)], True),
    (
        "<object><patch_index_0044><patch_index_0863></delimiter_of_multi_objects/>"
        "<patch_index_0000><patch_index_0033></object>",
        OK,
        [of(32, 12.5, 1.5, 31.5, 26.5), of(32, 0.5, 0.5, 1.5, 1.5)],
        True,
    ),
    (
        "It is<object><patch_index_0044><patch_index_0863></object>.",
        OK,
        [of(32, 12.5, 1.5, 31.5, 26.5)],
        False,
    ),
    ("<object><patch_index_0044></object>", UNPARSABLE, [], False),
    ("<object><patch_index_0044><patch_index_08", UNPARSABLE, [], False),
    ("<object><patch_index_0863><patch_index_0044></object>", DEGENERATE, [], True),
    ("<object><patch_index_0044><patch_index_2000></object>", OUT_OF_BOUNDS, [], True),
]

GLM_V: Table = [
    *NOTHING,
    ("<|begin_of_box|>[[10, 20, 30, 40]]<|end_of_box|>", OK, [BOX], True),
    ("<|begin_of_box|>[10,20,30,40]<|end_of_box|>", OK, [BOX], True),
    (
        "<think>At [[1,2,3,4]].</think>It is <|begin_of_box|>[[10,20,30,40]]<|end_of_box|>.",
        OK,
        [BOX],
        False,
    ),
    (
        "Not [[1,2,3,4]] but <|begin_of_box|>[[10,20,30,40],[50,60,70,80]]<|end_of_box|>",
        OK,
        [BOX, OTHER],
        True,
    ),
    ("[[10, 20, 30, 40]]", OK, [BOX], True),  # decoding dropped the tokens
    ("<|begin_of_box|>blue<|end_of_box|>", UNPARSABLE, [], False),  # another kind of answer
    ("<|begin_of_box|>[[10, 20, 30", UNPARSABLE, [], False),
    ("<|begin_of_box|>[[30, 20, 10, 40]]<|end_of_box|>", DEGENERATE, [], True),
]

SEED: Table = [
    *NOTHING,
    ("<bbox>10 20 30 40</bbox>", OK, [BOX], True),
    ("<bbox>10 20 30 40</bbox>\n<bbox>50 60 70 80</bbox>", OK, [BOX, OTHER], True),
    ("The dog is at <bbox>10 20 30 40</bbox>.", OK, [BOX], False),
    ("none", OK, [], True),
    ("<bbox>10 20 30</bbox>", UNPARSABLE, [], False),
    ("<bbox>10 20 30 40</bbox> <bbox>50 60", UNPARSABLE, [], False),
    ("<bbox>30 20 10 40</bbox>", DEGENERATE, [], True),
    ("<bbox>10 20 30 1200</bbox>", OUT_OF_BOUNDS, [], True),
]

GRIFFON: Table = [
    *NOTHING,
    ("dog-[0.010, 0.020, 0.030, 0.040]", OK, [BOX], False),
    ("dog-[0.010, 0.020, 0.030, 0.040]&dog-[0.050, 0.060, 0.070, 0.080]", OK, [BOX, OTHER], False),
    ("[0.010, 0.020, 0.030, 0.040]", OK, [BOX], True),
    ("dog-[0.010, 0.020, 0.030", UNPARSABLE, [], False),
    ("dog-[10, 20, 30, 40]", OUT_OF_BOUNDS, [], False),
]

OTHERS = {
    "gemini": GEMINI,
    "paligemma": PALIGEMMA,
    "florence_2": FLORENCE_2,
    "deepseek_vl2": DEEPSEEK_VL2,
    "moondream": MOONDREAM,
    "kosmos_2": KOSMOS_2,
    "glm_v": GLM_V,
    "seed": SEED,
    "griffon": GRIFFON,
    "gpt": JSON,
    "claude": JSON,
}
