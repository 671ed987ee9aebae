"""Say in a sentence, with a code, what a WebDAV server or the line to it refused.

The system's own words stay behind the sentence as its cause, for the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import ParseError

import httpx
from webdav4.client import BadGatewayError, ClientError, HTTPError, ResourceAlreadyExists, ResourceNotFound

from ecgportal.errors import RemoteError

#: Troubles of the line: what has arrived stays, and the next try goes on with it.
CUT = ("remote_unreachable", "remote_timeout")


@contextmanager
def troubles(path: str, server: httpx.URL) -> Iterator[None]:
    """Raise whatever goes wrong with a path on a server as a RemoteError."""
    try:
        yield
    except ResourceNotFound as error:
        raise _not_found(path) from error
    except ResourceAlreadyExists as error:
        raise exists(path) from error
    except HTTPError as error:
        raise _of_status(error.status_code, path) from error
    except BadGatewayError as error:
        raise _of_status(502, path) from error
    except (ParseError, ValueError, KeyError, AssertionError, LookupError) as error:
        raise RemoteError("The server's answer is not that of a WebDAV server.", code="remote_bad_answer") from error
    except httpx.TimeoutException as error:
        raise RemoteError("The server did not answer in time.", code="remote_timeout") from error
    except httpx.TooManyRedirects as error:
        raise RemoteError("The server redirects without end.", code="remote_redirected") from error
    except httpx.HTTPError as error:
        raise _unreachable(server, error) from error
    except ClientError as error:
        raise RemoteError(f"The server refused: {str(error)[:200]}", code="remote_failed") from error


def check_answer(answer: httpx.Response, path: str) -> None:
    """Raise RemoteError when an answer is a refusal."""
    if not 200 <= answer.status_code < 300:
        raise _of_status(answer.status_code, path)


def exists(path: str) -> RemoteError:
    """Return the error of a file that is there already."""
    return RemoteError(f"{path} is on the server already; it was not overwritten.", code="remote_exists")


def _not_found(path: str) -> RemoteError:
    return RemoteError(
        f"There is no {path or 'such folder'} on the server. Check the address.", code="remote_not_found"
    )


def _unreachable(url: httpx.URL, error: httpx.HTTPError) -> RemoteError:
    """Say in a sentence why there was no answer; the system's own words are kept for the log (``from``)."""
    port = url.port or (443 if url.scheme == "https" else 80)
    text = str(error).lower()
    if isinstance(error, httpx.ConnectError) and ("certificate" in text or "ssl" in text or "tls" in text):
        sentence = (
            f"The server {url.host} has no certificate that this machine trusts. Ask its administrator for a valid one."
        )
    elif isinstance(error, httpx.ConnectError):
        sentence = (
            f"The server {url.host} does not answer on port {port}. It may be switched off; check the address, or try again "
            "later."
        )
    elif isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
        sentence = f"The server {url.host} broke the connection off. Try again."
    else:
        sentence = f"The connection to {url.host} failed. Check the address, or try again later."
    return RemoteError(sentence, code="remote_unreachable")


def _of_status(status: int, path: str) -> RemoteError:
    if status == 404:
        return _not_found(path)
    sentences = {
        401: ("The server refused the user name or password.", "remote_refused"),
        403: (f"The server does not allow this account to use {path or 'the folder'}.", "remote_refused"),
        405: ("The server does not speak WebDAV at this address.", "remote_bad_answer"),
        409: (f"The folder of {path} does not exist on the server.", "remote_not_found"),
        412: (f"{path} was changed on the server in the meantime; nothing was overwritten.", "remote_changed"),
        413: (f"The server does not take a file of this size ({path}).", "remote_too_large"),
        423: (f"{path} is locked on the server. Try again later.", "remote_locked"),
        507: ("The server has no space left.", "remote_full"),
    }
    if status in sentences:
        return RemoteError(sentences[status][0], code=sentences[status][1])
    if 300 <= status < 400:
        return RemoteError("The server redirects this address. Enter the final one.", code="remote_redirected")
    return RemoteError(f"The server answered with status {status} for {path or 'the folder'}.", code="remote_failed")
