"""Settings in words: every choice has one, and a run's page tells what differs from the default."""

from __future__ import annotations

from training import setting_words
from training.engine.settings import FitSettings, settings_schema


def test_every_choice_of_every_setting_has_words() -> None:
    schema = settings_schema()["properties"]
    for name, entry in schema.items():
        if name == "mode":
            continue
        for value in entry.get("enum", []):
            assert setting_words.WORDS[name][value], (name, value)
        if "null" in entry.get("type", ""):
            assert setting_words.EMPTY[name], name
    known = {*schema, *schema["augmentation"]["properties"]}
    assert known >= {*setting_words.WORDS, *setting_words.UNITS, *setting_words.EMPTY}


def test_what_differs_comes_first_with_its_default() -> None:
    settings = FitSettings.from_dict(
        {"learning_rate": None, "schedule": "cosine", "batch_size": 64, "augmentation": {"noise_mv": 0.1, "scale": 0}}
    )
    rows = setting_words.rows(settings.to_dict(), {"learning_rate": 0.0031, "members": 3})
    changed = {row.title: (row.value, row.used, row.default) for row in rows if row.default}
    assert changed == {
        "Batch size": ("64 records", "", "by the number of records"),
        "Learning rate": ("found before the start", "0.0031", "0.003"),
        "Rate over time": ("cosine (falls after a short rise)", "", "one cycle (rises, then falls)"),
        "Augmentation": (
            "noise 0.1 mV, time shift 2 s, lead dropout 0.2, baseline wander 0.1 mV", "",
            "noise 0.05 mV, scaling 0.3, time shift 2 s, lead dropout 0.2, baseline wander 0.1 mV",
        ),
    }  # fmt: skip
    assert [bool(row.default) for row in rows] == [True] * 4 + [False] * (len(rows) - 4)
    same = {row.title: (row.value, row.used) for row in rows if not row.default}
    assert same["Networks in the ensemble"] == ("by the portal", "3") and same["Optimiser"] == ("AdamW", "")
    assert same["Mixed precision"] == ("yes", "") and same["Patience"] == ("15 epochs", "")


def test_random_changes_of_signals_without_a_unit_say_what_a_millivolt_is_taken_as() -> None:
    def used(**asked: float) -> str:
        rows = setting_words.rows(FitSettings.from_dict({"augmentation": asked}).to_dict(), {"augmentation": 5.02})
        return next(row.used for row in rows if row.title == "Augmentation")

    assert used() == "1 mV taken as 5.02 of the prepared signals, by their spread"
    assert used(noise_mv=0, wander_mv=0) == ""


def test_settings_of_older_runs_are_told_as_far_as_they_go() -> None:
    rows = setting_words.rows({"epochs": 40, "optimiser": "lion", "gone": 3}, {})
    assert [(row.title, row.value) for row in rows] == [("Optimiser", "lion"), ("Epochs", "40")]
