"""The log says where an error arose, and not what a patient's file or a row held."""

from __future__ import annotations

import logging
import sys

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, IntegrityError, connection, transaction
from django.utils.module_loading import import_string

from ecgportal.logfiles import ErrorTail, ReticentFormatter
from tests.factories import make_user

NAME = "Quixworth"


def shown(error: BaseException) -> str:
    try:
        raise error
    except BaseException:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "a job failed", (), sys.exc_info())
        return ReticentFormatter("%(asctime)s %(levelname)s %(message)s").format(record)


def test_the_portal_logs_by_it():
    line = settings.LOGGING["formatters"]["line"]
    assert import_string(line["()"]) is ReticentFormatter
    handler = next(h for h in logging.getLogger().handlers if isinstance(h.formatter, ReticentFormatter))
    assert isinstance(handler, logging.StreamHandler)


@pytest.mark.parametrize(
    "error", [ValueError(f"could not convert {NAME}"), KeyError(NAME), DataError(NAME), IntegrityError(NAME)]
)
def test_words_that_quote_what_was_given_are_left_out(error):
    text = shown(error)
    assert NAME not in text and type(error).__name__ in text and "test_log_words.py" in text


def test_other_errors_keep_their_words():
    assert "ImproperlyConfigured: set PORTAL_HOME" in shown(ImproperlyConfigured("set PORTAL_HOME"))
    assert shown(RuntimeError()).endswith("RuntimeError")


def test_what_led_to_an_error_is_told_in_its_order():
    try:
        try:
            float(NAME)
        except ValueError as error:
            raise RuntimeError("the table is odd") from error
    except RuntimeError as error:
        text = shown(error)
    assert text.index("ValueError") < text.index("led to the following") < text.index("RuntimeError: the table is odd")
    assert NAME not in text


@pytest.mark.django_db
def test_the_values_of_a_refused_row_are_left_out():
    make_user(NAME)
    with pytest.raises(IntegrityError) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE accounts_user SET id = NULL")
    text = shown(caught.value)
    assert NAME not in text and "23502" in text


def test_the_supervisor_still_finds_the_gist(tmp_path):
    path = tmp_path / "queue.log"
    path.touch()
    tail = ErrorTail()
    tail.follow("queue", path)
    path.write_text(shown(ValueError(NAME)) + "\n")
    assert tail.new_errors() == []
    gist = tail.new_errors()
    assert gist[-1] == "queue: ValueError: (words left out)" and "ERROR a job failed" in gist[0]
