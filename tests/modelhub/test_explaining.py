"""From the button on the record page to the shading in the ECG figure, with a model that looks at V1 late."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from onnx import TensorProto, helper

from datasets import ecg
from datasets.preprocess.crop import Crop
from datasets.preprocess.expand import Expand
from datasets.preprocess.median_beat import MedianBeat
from datasets.preprocess.recipe import DEFAULT_RECIPE, Recipe
from datasets.preprocess.resample import Resample
from ecgportal import storage
from ecgportal.errors import InvalidInput
from ecgportal.jobs.models import Job
from modelhub import explaining
from modelhub.models import Model, ModelVersion, Prediction, PredictionRun
from tests import factories
from tests.working import work_off

pytestmark = pytest.mark.django_db


def late_v1_onnx() -> bytes:
    """Return a model whose logits are the maximum and the negative maximum of V1 between 8 and 9 s at 100 Hz."""
    constants = {"start": [6, 800], "end": [7, 900], "axes": [1, 2], "one": [1]}
    tensors = [helper.make_tensor(name, TensorProto.INT64, [len(v)], v) for name, v in constants.items()]
    nodes = [
        helper.make_node("Slice", ["ecg", "start", "end", "axes"], ["part"]), helper.make_node("ReduceMax", ["part"], ["peak"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["peak", "one"], ["column"]), helper.make_node("Neg", ["column"], ["other"]),
        helper.make_node("Concat", ["column", "other"], ["logits"], axis=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "late", [helper.make_tensor_value_info("ecg", TensorProto.FLOAT, ["n", 12, 1000])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.fixture
def prediction() -> Prediction:
    project = factories.make_project()
    signal = np.random.default_rng(1).normal(0, 0.05, (12, 20 * 500)).astype(np.float32)
    # The middle ten seconds are cut out, so 8.25 s of the model's input are 13.25 s of the record.
    signal[:, round(13.2 * 500) : round(13.3 * 500)] = 2.0
    record = factories.make_record(factories.make_dataset(project), "long", signal=signal, fs_hz=500.0)
    contract = {
        "format": 1, "leads": list(factories.LEADS), "fs_hz": 100.0, "n_samples": 1000, "classes": ["LATE", "NOT"], "task": "multilabel",
        "unit": "mV", "normalisation": "none", "architecture": None, "config": {}, "recipe": None, "thresholds": {}, "output": "logits",
        "fixed_length": True, "parent": None,
    }  # fmt: skip
    sha256, size = storage.put_bytes(late_v1_onnx())
    version = ModelVersion.objects.create(
        model=Model.objects.create(project=project, name="Late V1"), number=1, state="ready", origin="imported", card={"licence": "CC BY 4.0", "intended_use": "research", "training_data": "Not known."}, contract=contract,
        classes=["LATE", "NOT"], task="multilabel", sha256=sha256, size=size,
    )  # fmt: skip
    job = factories.make_job(project, kind="predict")
    run = PredictionRun.objects.create(project=project, version=version, dataset=record.dataset, job=job)
    return Prediction.objects.create(run=run, record=record, values=[0.9, 0.1], predicted=["LATE"])


def work(prediction: Prediction) -> None:
    Job.objects.filter(kind="predict").update(state="cancelled", finished_at=timezone.now())
    assert [(job.kind, job.state) for job in work_off()] == [("saliency", "succeeded")]
    prediction.refresh_from_db()


def test_from_the_button_to_the_figure(client: Client, prediction: Prediction) -> None:
    from viz.dash_apps.ecg import draw, offer

    record = prediction.record
    client.force_login(factories.make_team(prediction.run.project)["editor"])
    page, ask = reverse("viz:record", args=[record.pk]), reverse("viz:saliency", args=[prediction.pk])
    assert ask in client.get(page).content.decode()
    for _ in range(2):
        assert client.post(ask).status_code == 302
    assert Job.objects.filter(kind="saliency").count() == 1
    assert "is being computed" in client.get(page).content.decode()
    work(prediction)

    kept = prediction.saliency
    assert (kept["t0_s"], kept["t1_s"]) == (5.0, 15.0)
    assert kept["classes"] == ["LATE", "NOT"]
    late, against = (np.array(one) for one in kept["values"])
    assert np.unravel_index(late.argmax(), late.shape) == (6, 16)
    assert late[6, 16] > 0.3
    assert not np.delete(late, 6, axis=0).any()
    assert against[6, 16] < -0.3
    assert "Shade the ECG by what supports" in client.get(page).content.decode()
    assert client.post(ask).status_code == 302
    assert Job.objects.filter(kind="saliency").count() == 1

    chosen = offer(record, True)[0][1]
    assert chosen["label"] == "LATE, Late V1 v1"
    view = (record, "12x1", "25", "10", "II", "none", "pink", "none", "original")
    figure, told, *_ = draw(*view, chosen["value"], "10", "0", 8, "light", None, None)
    shading = [one for one in figure["data"] if one["type"] == "heatmap"]
    assert len(shading) == 12
    brightest = [cell["lead"] for cell in figure["layout"]["meta"]["cells"]][6]
    assert brightest == "V1"
    assert "supports LATE by occlusion" in told
    plain, *_ = draw(*view, "none", "10", "0", 8, "light", None, None)
    assert not [one for one in plain["data"] if one["type"] == "heatmap"]


def test_where_the_models_input_begins_in_the_record() -> None:
    def record(seconds: float, fs_hz: float = 500.0) -> ecg.Record:
        return ecg.Record(np.zeros((12, round(seconds * fs_hz)), np.float32), fs_hz, ecg.LEADS_12)

    assert explaining.start_s(DEFAULT_RECIPE, record(10.0)) == 0.0
    assert explaining.start_s(DEFAULT_RECIPE, record(4.0)) == 0.0
    assert explaining.start_s(DEFAULT_RECIPE, record(30.0)) == 10.0
    twice = Recipe((Resample(100.0), Crop(20.0, "start"), Crop(10.0, "centre"), Expand(10.0, "zero")))
    assert explaining.start_s(twice, record(30.0)) == 5.0
    with pytest.raises(InvalidInput) as caught:
        explaining.start_s(Recipe((MedianBeat(),)), record(10.0))
    assert caught.value.code == "no_common_time"


def test_the_model_of_the_test_is_valid() -> None:
    onnx.checker.check_model(onnx.load_model_from_string(late_v1_onnx()))
