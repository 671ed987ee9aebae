"""Audit verbs of datasets."""

from ecgportal.audit.actions import register

register(
    dataset__created="created the dataset {object}",
    dataset__changed="changed the dataset {object}",
    dataset__deleted="deleted the dataset {object}",
    dataset__measured="had the records of {object} measured",
    dataset__exported="exported from the dataset {object}",
    dataset__import_started="started the import of a collection into {object}",
    upload__opened="began an upload to {object}",
    upload__discarded="discarded an unfinished upload to {object}",
    upload__given_up="removed files of an upload to {object} that nobody had gone on with",
    upload__answered="answered what files of {object} leave open",
    upload__received="uploaded files to {object}",
    upload__ingested="took in an upload to {object}",
    subject__deleted="deleted a person of {object}",
    dataset__twins_decided="decided about records of the same signal in {object}",
    record__deleted="deleted the record {object}",
    record__downloaded="downloaded the signal of {object}",
    record__annotated="annotated {object}",
    record__annotation_deleted="deleted an annotation of {object}",
    record__labelled="labelled {object}",
    record__label_removed="removed a label of {object}",
    labels__discarded="discarded a label table of {object}",
    labels__imported="imported labels into {object}",
    label_map__created="created the label map {object}",
    label_map__changed="changed the label map {object}",
    label_map__exported="exported the label map {object}",
)
