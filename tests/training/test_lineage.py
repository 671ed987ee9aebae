"""What a model was trained on is known wherever in the portal its file lies; whose the records were is not."""

from __future__ import annotations

import pytest

from datasets.models import Record, Subject
from ecgportal import storage
from modelhub import catalogue
from modelhub.models import ModelVersion
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.modelhub.test_catalogue import make_version
from tests.training.test_setting_up import Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from training.checking import check
from training.lineage import forebears, known_to, unseen
from training.models import SplitGroup, TrainingRun
from training.run_records import records_of
from training.splitting import make_split


def made_by(run: TrainingRun, **fields) -> ModelVersion:
    """Return a version as if the run had made it; what it held back stands in its split."""
    make_split(run, records_of(run))
    run.produced_version = make_version(run.project, architecture="xresnet1d18", **fields)
    run.save()
    return run.produced_version


def held_by(version: ModelVersion, ward: Ward) -> set[str]:
    """Return the keys of a ward's records that a version was trained on."""
    items = records_of(ward.start())
    return {item.key for item in items if item.record in known_to(version, items)}


@pytest.fixture
def learned(ward) -> set[str]:
    """The keys of what the ward's version was trained on; the same files lie in every ward."""
    ward.version = made_by(ward.start(), weights_sha256=storage.put_bytes(b"weights")[0])
    rows = SplitGroup.objects.exclude(part="test").values_list("members__record__key", flat=True)
    return set(rows)


def test_a_copy_from_the_catalogue_knows_what_its_source_was_trained_on(ward, learned, monkeypatch):
    monkeypatch.setattr("modelhub.novelty.reference_for", lambda version: None)
    administrator = factories.make_user(is_administrator=True)
    entry = catalogue.propose(actor=ward.user, version=ward.version, reason="Useful elsewhere.")
    entry = catalogue.decide(actor=administrator, entry=entry, decision="approve", reason="Read.")
    catalogue.share(actor=administrator, entry=entry, visible_to_all=True)
    there = Ward()
    copy = catalogue.copy(actor=there.user, entry=entry, project=there.project)
    assert 10 < len(learned) < 24 and held_by(copy, there) == learned
    tuned = make_version(there.project, name="Tuned", parent=copy)
    assert held_by(tuned, there) == learned
    asked = {
        "project": there.project, "datasets": [there.first, there.second], "label_map": there.label_map, "base_version": copy,
        "mode": "head", "settings": {"seed": 9},
    }  # fmt: skip
    (finding,) = [row for row in check(**asked).findings if row.code == "leakage"]
    assert f"{copy} was trained on" in finding.message and str(ward.project) not in finding.message
    assert "nothing is left" not in finding.message
    SplitGroup.objects.update(part="train")
    (finding,) = [row for row in check(**asked).findings if row.code == "leakage"]
    assert "and nothing is left to judge by" in finding.message


@pytest.mark.parametrize("same", ["sha256", "weights_sha256"])
def test_a_file_that_another_project_sent_knows_what_it_was_trained_on(ward, learned, same):
    there = Ward()
    sent = make_version(there.project, origin="imported", **{same: getattr(ward.version, same)})
    assert held_by(sent, there) == learned
    items = records_of(there.start())
    assert unseen(items, sent)[1] == len(learned)


def test_a_parent_that_a_file_merely_names_is_not_asked_across_projects(ward, learned):
    """Else whoever knows a digest could ask for the training data of a model that was never given."""
    there = Ward()
    for place, names in ((there, set()), (ward, learned)):
        claims = {"facts": {"parent_sha256": ward.version.sha256}}
        version = make_version(place.project, name="Claims", origin="imported", **claims)
        assert held_by(version, place) == names


def test_keys_of_patients_mean_nothing_in_another_project_and_signals_do(ward, learned):
    there = Ward()
    sent = make_version(there.project, origin="imported", sha256=ward.version.sha256)
    for record in Record.objects.filter(dataset__project=there.project):
        Record.objects.filter(pk=record.pk).update(content_sha256=f"{record.pk.hex}{record.pk.hex}")
    # The two records of the same signal, if they were learned from.
    assert held_by(sent, there) == {"rec00006", "rec00007"} & learned
    # A patient of whom one signal was learned from is known as a whole.
    SplitGroup.objects.filter(split__training_run__produced_version=ward.version).update(part="train")
    other = Record.objects.get(dataset=there.first, key="rec00001")
    Record.objects.filter(pk=other.pk).update(subject=Record.objects.get(dataset=there.first, key="rec00007").subject)
    assert held_by(sent, there) == {"rec00006", "rec00007", "rec00001"}


def test_a_patient_in_two_datasets_is_one_person_as_in_a_split(ward):
    version = made_by(ward.start(datasets=[ward.first]))
    SplitGroup.objects.update(part="train")
    assert held_by(version, ward) == {f"rec{n:05d}" for n in range(1, 24, 2)} | {"rec00004", "rec00006"}
    # The patient of a record of the second dataset that has the signal, too.
    twin = Subject.objects.get(records__key="rec00006")
    Record.objects.filter(key="rec00008").update(subject=twin)
    assert "rec00008" in held_by(version, ward)


def test_generations_cost_a_query_each(ward, learned, django_assert_num_queries):
    version = ward.version
    for number in range(3):
        version = make_version(ward.project, name=f"Tuned {number}", parent=version)
    with django_assert_num_queries(5):
        assert len(forebears(version)) == 4
