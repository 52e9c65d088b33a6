"""HTTP to a DICOMweb server: credentials from the environment, retries with back-off, and errors that quote nothing."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from requests.auth import AuthBase

from cohort_builder.errors import PacsError

AUTHORIZATION, HEADERS = "COHORT_DICOMWEB_AUTHORIZATION", "COHORT_DICOMWEB_HEADERS"
PREFIX = "dicomweb+"

TIMEOUT_S = (10.0, 120.0)  # to connect, and between two pieces of an answer
ATTEMPTS = 5
_BACKOFF_S = 0.5
_LONGEST_WAIT_S = 120.0
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_LOGGERS = ("dicomweb_client.web", "urllib3.connectionpool")
_NO_CREDENTIALS = (
    f"; name and password go into a netrc file, a token into the environment variable {AUTHORIZATION}, other headers "
    f"(JSON) into {HEADERS}"
)


class NoAnswerError(PacsError):
    """The server does not answer, or broke off in the middle."""


class RefusedError(Exception):
    """The server answered one request with something else than what was asked for; the next may go well."""


@dataclass(frozen=True, slots=True)
class Address:
    """A DICOMweb service. ``page``: how many results a query asks for at once."""

    base: str
    page: int = 500

    @property
    def name(self) -> str:
        """What the index remembers, and what reopens it: no credentials, no options."""
        return PREFIX + self.base

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``dicomweb+https://host:port/path``, with ``?page=N`` at will.

        Raises
        ------
        PacsError
            It is something else, or holds credentials. The address is not quoted: it may.

        """
        try:
            parts = urlsplit(url.removeprefix(PREFIX))
            port, options = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise PacsError("the DICOMweb address is malformed; give dicomweb+https://host:port/path") from error
        if parts.username is not None or parts.password is not None or parts.fragment or set(options) - {"page"}:
            raise PacsError(f"the DICOMweb address must hold neither credentials nor options but page{_NO_CREDENTIALS}")
        if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"[\s\\]", parts.path):
            raise PacsError("the DICOMweb address is malformed; give dicomweb+https://host:port/path")
        page = options.get("page", ["500"])[0]
        if not page.isdecimal() or not 1 <= int(page) <= 100_000:
            raise PacsError("page= of the DICOMweb address must be a number from 1 to 100000")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}", int(page))


class Session(requests.Session):
    """Tries a request again where that can help, and goes where it was told to and nowhere else.

    A redirect is refused: the headers with the credentials would go along to wherever it leads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = 0
        self.headers.update(_given_headers())
        if token := os.environ.get(AUTHORIZATION):
            self.auth = _Token(token)  # not a header: an entry of netrc would replace it

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send one request, again after an error of the moment, and wait as long as the server says."""
        for attempt in range(1, ATTEMPTS):
            wait = _BACKOFF_S * 2 ** (attempt - 1)
            try:
                response = super().send(request, **kwargs)
            except requests.exceptions.SSLError:
                raise
            except (requests.ConnectionError, requests.Timeout):
                pass
            else:
                if response.status_code not in _TRY_AGAIN:
                    return response
                wait = max(wait, _retry_after(response))
                response.close()
            time.sleep(min(wait, _LONGEST_WAIT_S))
        return super().send(request, **kwargs)


@contextmanager
def understood() -> Iterator[None]:
    """Turn what HTTP raises into ``RefusedError`` (this request) or ``PacsError`` (all of them), and log nothing.

    Addresses hold UIDs, queries hold more than that, and the libraries log them.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(_drop)
    try:
        yield
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        if status == 401:
            raise PacsError(f"the DICOMweb server wants other credentials (HTTP 401){_NO_CREDENTIALS}") from None
        raise RefusedError(f"HTTP {status}") from None
    except requests.exceptions.SSLError:
        raise PacsError(
            "the certificate of the DICOMweb server is not trusted; name the file of your authority's certificates in "
            "the environment variable REQUESTS_CA_BUNDLE"
        ) from None
    except requests.TooManyRedirects:
        raise PacsError("the DICOMweb server redirects; give the address that it redirects to") from None
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise NoAnswerError(
            f"the DICOMweb server does not answer ({type(error).__name__}, {ATTEMPTS} attempts); check its address, or "
            "run again later: with an index in a file a run continues where it stopped"
        ) from None
    except (requests.RequestException, ValueError) as error:
        raise RefusedError(f"an answer that cannot be understood ({type(error).__name__})") from None
    finally:
        for logger in loggers:
            logger.removeFilter(_drop)


class _Token(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._token
        return request


def _given_headers() -> Mapping[str, str]:
    given = os.environ.get(HEADERS)
    if not given:
        return {}
    try:
        headers = json.loads(given)
    except ValueError:
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise PacsError(f'{HEADERS} must be a JSON object of texts, like {{"X-Api-Key": "..."}}')
    return headers


def _retry_after(response: requests.Response) -> float:
    """Seconds that the server asks to wait (RFC 9110 10.2.3): a number, or a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _drop(_record: logging.LogRecord) -> bool:
    return False
