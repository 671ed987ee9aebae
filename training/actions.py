"""Audit verbs of training and evaluation."""

from ecgportal.audit.actions import register

register(
    run__started="started the training run {object}",
    run__resumed="resumed the training run {object}",
    run__finished="finished the training run {object}",
    run__renamed="renamed the training run {object}",
    run__learning_curve="started the learning curve of {object}",
    run__rate_sought="started: {object}",
    run__machine_measured="started: {object}",
    run__deleted="deleted the training run {object}",
    evaluation__started="started the evaluation {object}",
    evaluation__finished="finished the evaluation {object}",
    evaluation__downloaded="downloaded the report of {object}",
)
