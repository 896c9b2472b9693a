"""Where a base path may be: a folder on disk, or a folder in an object store, by URL."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import click
from pydantic import PlainSerializer, PlainValidator

from zoo.errors import UsageError

# What may stand before "://", and the package that fsspec needs for it.
SCHEMES: Mapping[str, str] = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "fsspec",
}


@dataclass(frozen=True, slots=True)
class Url:
    """A folder in an object store, e.g. s3://bucket/models.

    Raises:
        UsageError: what is wrong with it; credentials are never repeated.
    """

    text: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.text)
        shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        if "::" in self.text or parts.scheme not in SCHEMES:
            raise UsageError(
                f"{shown} cannot be a base path: a folder on disk can, or a URL of "
                f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}."
            )
        # A container stands there in abfs://container@account...
        is_user = bool(parts.username) and not parts.scheme.startswith("abfs")
        if is_user or parts.password or parts.query or parts.fragment:
            raise UsageError(
                f"{shown} was given with a user, a password, a query or a fragment. Credentials "
                f"come from the environment, as {SCHEMES[parts.scheme]} reads them."
            )
        if not parts.netloc:
            raise UsageError(f"{self.text} names no bucket: s3://bucket/models would.")
        folders = [each for each in parts.path.split("/") if each]
        if {".", ".."} & set(folders):
            raise UsageError(f"{shown} has '.' or '..' in it; object stores know neither.")
        object.__setattr__(self, "text", "/".join([f"{parts.scheme}://{parts.netloc}", *folders]))

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.text}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.text.rsplit("/", 1)[1]

    @property
    def parent(self) -> "Url":
        """All but the last part.

        Raises:
            UsageError: there is only one.
        """
        return Url(self.text.rsplit("/", 1)[0])

    @property
    def scheme(self) -> str:
        """What stands before "://"."""
        return self.text.partition("://")[0]


def place_of(given: object) -> Path | Url:
    """A folder on disk or a URL, from its text.

    Raises:
        UsageError: a URL that cannot be a base path.
    """
    if isinstance(given, Path | Url):
        return given
    text = str(given)
    if "://" not in text:
        return Path(text)
    if text.startswith("file:///"):
        return Path(unquote(urlsplit(text).path))
    return Url(text)


# A field of settings that takes either.
Place = Annotated[Path | Url, PlainValidator(place_of), PlainSerializer(str, return_type=str)]


class PathOrUrl(click.Path):
    """A command's argument that takes either."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.name = f"{self.name} or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns a `Path` or a `Url`."""
        place = place_of(value)
        return place if isinstance(place, Url) else super().convert(str(place), param, ctx)
