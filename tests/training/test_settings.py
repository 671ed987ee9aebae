"""Settings: what is refused, and what a form is told."""

import json
from dataclasses import fields

import pytest

from ecgportal.errors import InvalidInput
from training.engine.settings import Augmentation, FitSettings, settings_schema


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 10**9}, "epochs"),
        ({"epochs": 3.5}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"batch_size": 10**9}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 10**400}, "batch_size"),
        ({"learning_rate": -(10**400)}, "learning_rate"),
        ({"learning_rate": float("-inf")}, "learning_rate"),
        ({"learning_rate": 1e308}, "learning_rate"),
        ({"optimiser": ["adam"]}, "optimiser"),
        ({"monitor": 3}, "monitor"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"optimiser": "magic"}, "optimiser"),
        ({"mode": None}, "mode"),
        ({"seed": -1}, "seed"),
        ({"colour": "red"}, "colour"),
        ({"augmentation": {"noise_mv": float("nan")}}, "augmentation.noise_mv"),
        ({"augmentation": {"blur": 1}}, "augmentation.blur"),
        ({"augmentation": 3}, "augmentation"),
        ({"mode": "head_then_full", "epochs": 1}, "epochs"),
        ({"mode": "head_then_full", "epochs": 5, "head_epochs": 5}, "head_epochs"),
    ],
)
def test_bad_values_are_named_with_a_sentence(values, field):
    with pytest.raises(InvalidInput) as caught:
        FitSettings.from_dict(values)
    assert list(caught.value.fields) == [field]
    assert caught.value.fields[field].endswith(".") and caught.value.code == "bad_settings"


def test_all_bad_values_are_named_at_once():
    with pytest.raises(InvalidInput) as caught:
        FitSettings.from_dict({"epochs": 0, "batch_size": -3})
    assert set(caught.value.fields) == {"epochs", "batch_size"}


def test_settings_survive_json():
    settings = FitSettings(epochs=7, learning_rate=None, augmentation=Augmentation(mixup=0.2))
    assert FitSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_the_batch_grows_with_the_records_and_what_was_asked_for_counts():
    sizes = [FitSettings().batch_for(count) for count in (1, 300, 6400, 6401, 17_418, 10**6)]
    assert sizes == [32, 32, 32, 64, 128, 256]
    assert FitSettings(batch_size=8).batch_for(10**6) == 8


def test_the_schema_describes_every_setting_with_default_and_reason():
    schema = settings_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["properties"]) == {f.name for f in fields(FitSettings)}
    assert set(schema["properties"]["augmentation"]["properties"]) == {f.name for f in fields(Augmentation)}
    for name, entry in [*schema["properties"].items(), *schema["properties"]["augmentation"]["properties"].items()]:
        if name != "augmentation":
            assert entry["title"] and entry["description"].endswith(".") and "default" in entry, name
    assert (
        schema["properties"]["epochs"] | {"type": "integer", "minimum": 1, "maximum": 1000}
        == schema["properties"]["epochs"]
    )
    assert schema["properties"]["learning_rate"]["type"] == ["number", "null"]
    assert schema["properties"]["mixed_precision"]["type"] == "boolean"
