"""Requests of the card's form are understood; what is no request is refused in one sentence."""

import base64
import json

import numpy as np
import pytest

from deformable_detr_refine import Detections
from deformable_detr_refine.inference.detector import DetectionFailure
from deformable_detr_refine.serving.azure.schema import Request, RequestError, parse_request, read_images, respond
from deformable_detr_refine.serving.limits import Limits

LIMITS = Limits(images=3, request_bytes=10_000)
CONTENT = bytes(range(256)) * 3


def split(data, **more) -> dict:
    return {"columns": ["image"], "index": list(range(len(data))), "data": data, **more}


@pytest.mark.parametrize(
    "body",
    [
        {"input_data": split(["a", "b"])},
        {"input_data": split([["a"], ["b"]])},
        {"input_data": {"columns": ["image"], "data": ["a", ["b"]]}},
        {"input_data": {"columns": ["image"], "index": ["x", "y"], "data": ["a", "b"]}},
        {"input_data": ["a", "b"]},
        {"dataframe_split": split([["a"], ["b"]])},
        {"dataframe_records": [{"image": "a"}, {"image": "b"}]},
    ],
    ids=["card", "nested", "mixed", "index", "list", "split", "records"],
)
def test_every_form_means_the_same_images_in_order(body):
    expected = Request(("a", "b"))
    assert parse_request(body, LIMITS) == parse_request(json.dumps(body).encode(), LIMITS) == expected
    assert (expected.threshold, expected.top_k) == (0.0, None)


def test_parameters():
    body = {"input_data": split(["a"]), "params": {"threshold": 0.5, "top_k": 7}}
    assert parse_request(body, LIMITS) == Request(("a",), 0.5, 7)
    assert parse_request({**body, "params": {"threshold": 1}}, LIMITS) == Request(("a",), 1.0)
    assert parse_request({**body, "params": None}, LIMITS) == Request(("a",))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is empty"),
        (b" \n", "The body is empty"),
        (b'{"input_data": ', "The body is no JSON: Expecting value (line 1, column 16)."),
        (b"\xff\xfe\xfa", "it is not UTF-8"),
        (b"[" * 5000, "nested too deep"),
        (b'{"input_data": ' + b"9" * 5000 + b"}", "a number that is too long"),
        (b"[1]", "a JSON list, expected an object"),
        (b"null", "a JSON null, expected an object"),
        ({}, "The body has no input_data."),
        ({"data": ["a"]}, 'no input_data, only ["data"]'),
        ({"input_data": "a"}, "input_data is a JSON string, expected an object"),
        ({"input_data": {"columns": ["image"]}}, 'input_data has no data, only ["columns"]'),
        ({"input_data": split(["a"], columns=["picture"])}, 'the columns ["picture"], expected ["image"]'),
        ({"input_data": split(["a"], columns=["image", "text"])}, 'expected ["image"]'),
        ({"input_data": split(["a"], columns="image")}, 'the columns "image", expected ["image"]'),
        ({"input_data": split(["a"], columns=["x" * 1000])}, "..., expected"),
        ({"input_data": {"columns": ["image"], "data": "a"}}, "data is a JSON string, expected a list"),
        ({"input_data": split([])}, "holds no images"),
        ({"input_data": split(["a", 7])}, "Image 1 is a JSON number, expected a string"),
        ({"input_data": split([None])}, "Image 0 is a JSON null"),
        ({"input_data": split([["a", "b"]])}, "Image 0 is a JSON list"),
        ({"input_data": split(["a"], index=[0, 1])}, "index and data do not fit"),
        ({"input_data": split(["a"], index=0)}, "index and data do not fit"),
        ({"dataframe_records": {"image": "a"}}, "dataframe_records is a JSON object, expected a list"),
        ({"dataframe_records": [{"image": "a"}, {"images": "b"}]}, "Record 1 is"),
        ({"input_data": split(["a"]), "params": [1]}, "params is [1]"),
        ({"input_data": split(["a"]), "params": {"treshold": 1}}, 'params is with "treshold"'),
        ({"input_data": split(["a"]), "params": {"threshold": 2}}, "threshold is 2, expected a number from 0 to 1"),
        ({"input_data": split(["a"]), "params": {"threshold": True}}, "threshold is true"),
        ({"input_data": split(["a"]), "params": {"threshold": float("nan")}}, "threshold is NaN"),
        ({"input_data": split(["a"]), "params": {"top_k": 0}}, "top_k is 0, expected a whole number"),
        ({"input_data": split(["a"]), "params": {"top_k": 2.5}}, "top_k is 2.5"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_request_is_refused_in_one_sentence(body, sentence):
    for form in (body,) if isinstance(body, bytes) else (body, json.dumps(body)):
        with pytest.raises(RequestError) as caught:
            parse_request(form, LIMITS)
        assert caught.value.status == 400
        assert sentence in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_requests_beyond_a_limit_are_too_large():
    with pytest.raises(RequestError, match="has 4 images, the limit is 3") as caught:
        parse_request({"input_data": split(["a"] * 4)}, LIMITS)
    assert caught.value.status == 413
    with pytest.raises(RequestError, match=r"longer than 0.00954 MiB") as caught:
        parse_request(b" " * 10_001, LIMITS)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(CONTENT).decode(),
        base64.encodebytes(CONTENT).decode(),
        base64.encodebytes(CONTENT).decode().replace("\n", "\r\n"),
        base64.urlsafe_b64encode(CONTENT).decode(),
        base64.b64encode(CONTENT + b"x").decode().rstrip("="),
        f"data:image/png;base64,{base64.b64encode(CONTENT).decode()}",
        f" DATA:image/png;charset=x;base64,\n{base64.encodebytes(CONTENT).decode()}",
    ],
    ids=["plain", "newlines", "crlf", "url alphabet", "no padding", "data uri", "odd data uri"],
)
def test_base64_as_people_write_it(text):
    (content,) = read_images([text], LIMITS)
    assert content in (CONTENT, CONTENT + b"x")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The image is an empty string."),
        ("\n", "The image is an empty string."),
        ("not base64!", "neither base64 nor an http or https URL"),
        ("abcde", "neither base64"),
        ("a=bc", "neither base64"),
        ("ÄÖ", "neither base64"),
        ("photo.jpg", "neither base64"),
        ("/etc/passwd?", "neither base64"),
        ("data:image/png,abc", "a data URI without base64"),
        ("data:image/png;base64", "a data URI without base64"),
        ("ftp://example.org/a.jpg", "only http and https URLs are"),
        ("file:///etc/passwd", "only http and https URLs are"),
    ],
)
def test_what_is_no_image_has_its_reason_in_its_place(text, sentence):
    good = base64.b64encode(CONTENT).decode()
    first, bad, last = read_images([good, text, CONTENT], LIMITS)
    assert (first, last) == (CONTENT, CONTENT)
    assert isinstance(bad, DetectionFailure) and sentence in bad.error


def test_the_response_is_the_cards():
    found = Detections([[8, 4, 40, 20], [0, 0, 64, 32]], [0.75, 0.5], [1, 0], {0: "can", 1: "carton"}, (32, 64))
    response = respond([found, DetectionFailure("It is damaged."), found[:0]])
    assert json.loads(json.dumps(response)) == [
        {
            "boxes": [
                {
                    "box": {"topX": 0.125, "topY": 0.125, "bottomX": 0.625, "bottomY": 0.625},
                    "label": "carton",
                    "score": 0.75,
                },
                {"box": {"topX": 0, "topY": 0, "bottomX": 1, "bottomY": 1}, "label": "can", "score": 0.5},
            ]
        },
        {"boxes": [], "error": "It is damaged."},
        {"boxes": []},
    ]


def test_coordinates_never_leave_the_image():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(-20, 120, (50, 2, 2)), axis=1).reshape(50, 4)
    (entry,) = respond([Detections(corners, np.ones(50), np.zeros(50, int), {0: "can"}, (77, 93))])
    values = np.array([list(item["box"].values()) for item in entry["boxes"]])
    assert ((values >= 0) & (values <= 1)).all()


def test_limits_travel_through_the_environment():
    limits = Limits(images=5, url_seconds=2.5, private_urls=True)
    assert Limits.from_environment(limits.to_environment()) == limits
    assert Limits.from_environment({}) == Limits()
    for name, value in (("DDETR_IMAGES", "many"), ("DDETR_PRIVATE_URLS", "maybe"), ("DDETR_URL_SECONDS", "x")):
        with pytest.raises(ValueError, match=f"{name} is '{value}', expected"):
            Limits.from_environment({name: value})
    with pytest.raises(ValueError, match="images is 0"):
        Limits(images=0)
