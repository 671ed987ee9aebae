"""What leaves the portal names nobody: bundles, models, cards, predictions, reports, signals, maps and the audit trail."""

from __future__ import annotations

import pytest

from datasets.demo import sync_label_maps
from tests.acceptance.conftest import signed_in
from tests.api_client import Api
from tests.ecgfiles import Cohort, make_cohort, zip_of
from tests.planted import BIRTH, FIRST, FREE, NAME, NUMBER, PLACE, everything_stored, hits, unpacked
from tests.working import work_off

FAST = {"epochs": 1, "batch_size": 16, "threads": 1, "seed": 5}


def planted(cohort: Cohort) -> tuple[dict[str, bytes], bytes]:
    """Return the files and the label table of a cohort in which every person is named: in headers, file names and columns."""
    files, rows = {}, ["file,patient_id,patient_name,remark,scp_codes"]
    for number, row in enumerate(cohort.rows):
        key, name = row["filename_hr"], f"{NAME}_{FIRST}_{number:03d}"
        header = cohort.files[f"study/{key}.hea"].replace(key.encode(), name.encode())
        header = header.replace(b"\n", b" 10:11:12 23/07/2009\n", 1)
        header += f"#{FIRST} {NAME} {NUMBER}{number} born {BIRTH}\n#Hx: {FREE} of {PLACE}\n".encode()
        files |= {f"{PLACE}/{name}.hea": header, f"{PLACE}/{name}.dat": cohort.files[f"study/{key}.dat"]}
        rows.append(f'{name},{NUMBER}{number},"{NAME}, {FIRST}",{FREE},"{row["scp_codes"]}"')
    return files, "\n".join(rows).encode()


def done(api: Api, answer: dict) -> dict:
    work_off()
    job = api.get(f"jobs/{answer['job']}/")
    assert job["state"] == "succeeded", job
    return job


@pytest.mark.django_db(transaction=True)
def test_no_export_names_a_person(few_threads, own_home):
    sync_label_maps()
    api = signed_in("olga")
    project = api.post("projects/", {"name": "Ward study"})["id"]
    dataset = api.post("datasets/", {"project": project, "name": "Ward"})["id"]
    files, table = planted(make_cohort(40))
    assert hits(table) and hits(b"".join(files.values()))
    job = done(
        api, api.post(f"datasets/{dataset}/uploads/", {}, status=202, files={"files": [("ward.zip", zip_of(files))]})
    )
    assert job["result"]["accepted"] == 40
    labels = api.post(f"datasets/{dataset}/labels/", {}, status=202, files={"file": [(f"{NAME}_{FIRST}.csv", table)]})
    assert done(api, labels)["result"]["taken"] == 40
    (label_map,) = (row["id"] for row in api.rows("label-maps/", project=project) if row["name"] == "PTB-XL superclass")
    run = api.post(
        "training-runs/",
        {"project": project, "dataset": dataset, "label_map": label_map, "classes": ["NORM", "MI", "CD", "HYP"],
         "task": "multilabel", "architecture": "xresnet1d18", "settings": FAST},
        status=202,
    )  # fmt: skip
    done(api, run)
    run = api.get(f"training-runs/{run['id']}/")
    version = run["produced_version"]
    predicted = api.post("predictions/", {"version": version, "dataset": dataset}, status=202)
    done(api, predicted)
    record = api.rows("records/", dataset=dataset)[0]["id"]
    found = {}
    for path, query in (
        *((f"model-versions/{version}/download/", {"format": form}) for form in ("bundle", "onnx", "safetensors")),
        (f"model-versions/{version}/", {}), (f"model-versions/{version}/card/", {}), (f"training-runs/{run['id']}/", {}),
        *((f"predictions/{predicted['id']}/rows/", {"format": form}) for form in ("csv", "json")),
        *((f"evaluations/{run['report']}/report/", {"format": form}) for form in ("json", "html", "pdf")),
        *((f"records/{record}/signal/", {"format": form}) for form in ("json", "csv", "npy")),
        (f"datasets/{dataset}/labels/", {}), (f"label-maps/{label_map}/export/", {}), ("audit-events/", {"project": project}),
        *(("audit-events/export/", {"project": project, "format": form}) for form in ("csv", "json", "fhir")),
        (f"jobs/{labels['job']}/", {}), ("records/", {"dataset": dataset}),
    ):  # fmt: skip
        api.get(path, **query)
        content = api.last.content if not api.last.streaming else api.call("get", path, query=query)
        content = content if isinstance(content, bytes) else repr(content).encode()
        assert len(content) > 50, path
        found[f"{path} {query}"] = hits(unpacked(content) + str(api.last.headers).encode())
    # What training, evaluation and prediction have left behind is searched like what was sent.
    found |= {where: hits(data) for where, data in everything_stored().items()}
    assert any(where.startswith("prepared/") for where in found)
    # A folder's one word is no person's name: the list of an upload's files shows it.
    assert {where: words for where, words in found.items() if words} == {"table datasets_ingestitem": [PLACE]}
