"""The XML of WebDAV answers (RFC 4918): which properties are asked for, and the multistatus that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote
from xml.etree import ElementTree as ET

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from django.utils.http import http_date

from ecgportal.errors import InvalidInput

DAV = "{DAV:}"
MAX_BODY_BYTES = 64 * 1024
ET.register_namespace("D", "DAV:")


@dataclass(frozen=True)
class Resource:
    """One row of an answer. href: path on the server, not yet quoted; folders end with a slash. size and etag are None
    for a folder, and for a file that cannot be written at present."""

    href: str
    name: str
    is_folder: bool
    created: datetime
    modified: datetime
    size: int | None = None
    etag: str | None = None
    content_type: str = "application/zip"


@dataclass(frozen=True)
class Asked:
    """What a PROPFIND asks for: all properties, only their names, or the listed ones (in Clark notation)."""

    kind: str
    names: tuple[str, ...] = ()


def read_propfind(body: bytes) -> Asked:
    """Return what a PROPFIND body asks for; an empty one asks for all. InvalidInput when it is not a propfind."""
    if not body.strip():
        return Asked("allprop")
    try:
        root = fromstring(body, forbid_dtd=True)
    except (ET.ParseError, DefusedXmlException, ValueError) as error:
        raise InvalidInput("The request's body is not the XML of a PROPFIND.") from error
    if root.tag != DAV + "propfind":
        raise InvalidInput("The request's body is not the XML of a PROPFIND.")
    if root.find(DAV + "propname") is not None:
        return Asked("propname")
    wanted = root.find(DAV + "prop")
    return Asked("allprop") if wanted is None else Asked("prop", tuple(str(child.tag) for child in wanted))


def multistatus(resources: list[Resource], asked: Asked) -> bytes:
    """Return the 207 body."""
    root = ET.Element(DAV + "multistatus")
    for resource in resources:
        response = ET.SubElement(root, DAV + "response")
        ET.SubElement(response, DAV + "href").text = quote(resource.href, safe="/~")
        known = _properties(resource)
        names = asked.names if asked.kind == "prop" else tuple(known)
        found = [known[name] for name in names if name in known]
        missing = [ET.Element(name) for name in names if name not in known]
        if asked.kind == "propname":
            found = [ET.Element(element.tag) for element in found]
        if found or not missing:
            _propstat(response, found, "HTTP/1.1 200 OK")
        if missing:
            _propstat(response, missing, "HTTP/1.1 404 Not Found")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8")


def _propstat(response: ET.Element, elements: list[ET.Element], status: str) -> None:
    propstat = ET.SubElement(response, DAV + "propstat")
    ET.SubElement(propstat, DAV + "prop").extend(elements)
    ET.SubElement(propstat, DAV + "status").text = status


def _properties(resource: Resource) -> dict[str, ET.Element]:
    texts: dict[str, str] = {
        "displayname": resource.name,
        "creationdate": resource.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "getlastmodified": http_date(resource.modified.timestamp()),
    }
    if not resource.is_folder:
        texts["getcontenttype"] = resource.content_type
    if resource.size is not None and resource.etag is not None:
        texts |= {"getcontentlength": str(resource.size), "getetag": resource.etag}
    found = {}
    for name, text in texts.items():
        found[DAV + name] = element = ET.Element(DAV + name)
        element.text = text
    found[DAV + "resourcetype"] = kind = ET.Element(DAV + "resourcetype")
    if resource.is_folder:
        ET.SubElement(kind, DAV + "collection")
    for name in ("supportedlock", "lockdiscovery"):
        found[DAV + name] = ET.Element(DAV + name)
    return found
