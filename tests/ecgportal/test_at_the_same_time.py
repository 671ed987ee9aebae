"""Two who save the same at the same moment: one of them is told so, by the interface and on the page."""

from __future__ import annotations

import io
import threading

import pytest
from django.db import OperationalError, connection, transaction
from django.test import Client

from datasets import services, uploading
from datasets.models import ArrivingFile, Dataset, Ingest
from ecgportal import simultaneous, storage
from ecgportal.accounts.models import User
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict, NotFound
from ecgportal.projects.models import Project, Role
from tests.api_client import Api
from tests.factories import make_dataset, make_project, make_user


@pytest.fixture
def unseen(monkeypatch):
    """Both have looked before either has saved: the database alone stands between them."""
    for model in (User, Project, Dataset):
        monkeypatch.setattr(model, "full_clean", lambda self, **kwargs: None)


@pytest.mark.django_db
def test_the_second_of_two_equal_names_is_refused_as_if_it_came_later(unseen):
    owner, administrator = make_user(), make_user(is_administrator=True)
    project = make_project({owner: Role.OWNER}, name="Same")
    make_dataset(project, name="Same")
    make_user("same")
    api = Api(session=owner)
    error = api.refused("post", "projects/", {"name": "same"}, status=422, code="invalid_input")
    assert error["message"] == "There is a project with this name already."
    api.refused("post", "datasets/", {"project": str(project.pk), "name": "Same"}, status=422, code="invalid_input")
    user = {"username": "Same", "password": "correct-horse-battery-9"}
    Api(session=administrator).refused("post", "users/", user, status=422, code="invalid_input")
    assert (Project.objects.count(), Dataset.objects.count(), User.objects.filter(username__iexact="same").count()) == (
        1,
        1,
        1,
    )


@pytest.mark.django_db
def test_the_page_says_so_too(unseen):
    owner = make_user()
    make_project({owner: Role.OWNER}, name="Same")
    client = Client(raise_request_exception=False)
    client.force_login(owner)
    answer = client.post("/projects/new/", {"name": "same", "description": ""})
    assert answer.status_code == 422 and "There is a project with this name already." in answer.content.decode()


@pytest.mark.django_db
def test_what_was_deleted_meanwhile_is_not_there(monkeypatch):
    owner = make_user()
    dataset = make_dataset(make_project({owner: Role.OWNER}))
    ingest = Ingest.objects.create(dataset=dataset, is_open=True)
    real = uploading._locked_open

    def gone_first(row):
        Ingest.objects.filter(pk=row.pk).delete()
        return real(row)

    monkeypatch.setattr(uploading, "_locked_open", gone_first)
    Api(session=owner).refused("post", f"ingests/{ingest.pk}/finish/", status=404, code="not_found")


@pytest.mark.django_db
def test_a_piece_of_an_upload_that_is_discarded_meanwhile_is_refused():
    ingest = Ingest.objects.create(dataset=make_dataset(make_project()), is_open=True)
    file = ArrivingFile.objects.create(ingest=ingest, position=0, name="a.dat", size=4)

    class Slow(io.BytesIO):
        def read(self, size=-1):
            Ingest.objects.filter(pk=ingest.pk).delete()
            return super().read(size)

    with pytest.raises(Conflict) as caught:
        uploading.file_receive(file=file, offset=0, stream=Slow(b"abcd"))
    assert caught.value.code == "upload_closed"


@pytest.mark.django_db
def test_of_two_who_delete_a_dataset_one_did():
    owner = make_user()
    dataset = make_dataset(make_project({owner: Role.OWNER}))
    services.dataset_delete(actor=owner, dataset=Dataset.objects.get(pk=dataset.pk))
    assert isinstance(simultaneous.told(Dataset.DoesNotExist()), NotFound)
    with pytest.raises(Dataset.DoesNotExist):
        services.dataset_delete(actor=owner, dataset=dataset)
    assert AuditEvent.objects.filter(action="dataset.deleted").count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_changes_that_wait_for_each_other_are_a_conflict_for_one():
    first, second = make_user(), make_user()
    both_hold = threading.Barrier(2)
    told: list[object] = []

    def change(own, other):
        try:
            with transaction.atomic():
                User.objects.select_for_update().get(pk=own.pk)
                both_hold.wait(10)
                User.objects.select_for_update().get(pk=other.pk)
        except OperationalError as error:
            told.append(simultaneous.told(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=change, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(type(error), error.code) for error in told] == [(Conflict, "busy")]


def at_once(*calls):
    """Run the calls in a thread and a connection each; returns what each returned or raised."""
    told: list[object] = [None] * len(calls)

    def run(number, call):
        try:
            told[number] = call()
        except Exception as error:
            told[number] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return told


class InTurns:
    """Bytes that come in two parts, the second only when another's second is on its way, too."""

    def __init__(self, data: bytes, turn: threading.Barrier):
        half = len(data) // 2
        self.parts, self.turn = [data[:half], data[half:]], turn
        self.size = len(data)

    def read(self, size=-1) -> bytes:
        if len(self.parts) < 2:
            self.turn.wait(10)
        return self.parts.pop(0) if self.parts else b""

    def chunks(self):
        while part := self.read():
            yield part


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("before", [b"", b"head"])
def test_of_two_pieces_for_the_same_place_one_is_stored_and_the_other_told(before):
    ingest = Ingest.objects.create(dataset=make_dataset(make_project()), is_open=True)
    (row,) = uploading.files_declare(ingest=ingest, files=[("a.dat", 30)])
    uploading.file_receive(file=row, offset=0, stream=io.BytesIO(before))
    turn, at = threading.Barrier(2), len(before)
    # One is longer, so that a part of the loser's could stand behind the winner's.
    sent = [b"A" * 12, b"B" * 20]

    def send(data):
        file = ArrivingFile.objects.select_related("ingest").get(pk=row.pk)
        return uploading.file_receive(file=file, offset=at, stream=InTurns(data, turn))

    told = at_once(*(lambda data=data: send(data) for data in sent))
    refused = [answer for answer in told if isinstance(answer, Conflict)]
    assert len(refused) == 1, told
    won = next(data for data, answer in zip(sent, told, strict=True) if answer is not refused[0])
    file = ArrivingFile.objects.select_related("ingest").get(pk=row.pk)
    assert file.received == at + len(won)
    assert refused[0].code == "wrong_offset" and refused[0].fields == {"received": str(file.received)}
    assert "go on" in refused[0].message.lower()
    rest = b"C" * (30 - file.received)
    uploading.file_receive(file=file, offset=file.received, stream=io.BytesIO(rest))
    ingest = uploading.upload_finish(actor=None, ingest=ingest)
    folder = storage.area("uploads", ingest.pk)
    assert (folder / ingest.files[0]["path"]).read_bytes() == before + won + rest
    assert [path.name for path in folder.iterdir()] == [ingest.files[0]["path"]]


@pytest.mark.django_db(transaction=True)
def test_of_two_whole_files_of_one_name_one_is_stored_and_no_mixture():
    ingest = Ingest.objects.create(dataset=make_dataset(make_project()), is_open=True)
    uploading.files_declare(ingest=ingest, files=[("a.dat", 40_000)])
    turn = threading.Barrier(2)

    def send(data):
        return uploading.files_receive(ingest=ingest, files=[("a.dat", InTurns(data, turn))])

    told = at_once(*(lambda data=data: send(data) for data in (b"A" * 40_000, b"B" * 40_000)))
    assert [rows[0].received for rows in told] == [40_000, 40_000]
    folder = storage.area("uploads", ingest.pk)
    (path,) = folder.iterdir()
    assert path.read_bytes() in (b"A" * 40_000, b"B" * 40_000)


@pytest.mark.django_db
def test_a_piece_of_a_file_that_is_named_anew_meanwhile_is_not_counted():
    ingest = Ingest.objects.create(dataset=make_dataset(make_project()), is_open=True)
    (row,) = uploading.files_declare(ingest=ingest, files=[("a.dat", 9)])

    class Slow(io.BytesIO):
        def read(self, size=-1):
            uploading.files_declare(ingest=ingest, files=[("a.dat", 4)])
            return super().read(size)

    with pytest.raises(Conflict) as caught:
        uploading.file_receive(file=row, offset=0, stream=Slow(b"123456789"))
    assert caught.value.code == "wrong_offset"
    assert ArrivingFile.objects.values_list("size", "received").get() == (4, 0)
