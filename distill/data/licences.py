"""Licences as the front matter of a Hugging Face card states them, for models, bundles and data sets alike."""

from __future__ import annotations

from collections.abc import Iterable

# The hub's own identifiers (https://huggingface.co/docs/hub/repositories-licenses); any other licence is "other" there,
# with a name.
HUB_LICENCES = {
    *("afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear"),
    *("bigcode-openrail-m", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "creativeml-openrail-m"),
    *("bsl-1.0", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0"),
    *("cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-permissive-1.0"),
    *("cdla-permissive-2.0", "cdla-sharing-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "gfdl"),
    *("gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl"),
    *("ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unknown"),
    *("unlicense", "wtfpl", "zlib"),
}


def licence_fields(licences: Iterable[str]) -> dict[str, str | list[str]]:
    """A card's `license`, and `license_name` where there is one, for something under all of these licences, each of which may
    list several.

    Hub identifiers are written as such; if any of them is not one, the whole text becomes the name of an "other" licence.
    """
    names = sorted({text for text in map(_one_line, licences) if text}) or ["unknown"]
    identifiers = sorted({part.strip().lower().replace(" ", "-") for name in names for part in name.split(",")})
    if not HUB_LICENCES.issuperset(identifiers):
        return {"license": "other", "license_name": ", ".join(names)}
    return {"license": identifiers[0] if len(identifiers) == 1 else identifiers}


def _one_line(text: str) -> str:
    """The text as one line of printable characters: a licence's name is shown beside others."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
