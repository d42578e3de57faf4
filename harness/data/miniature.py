"""Writes generated scenes in RRSIS-D's layout, with the known defects of the published files on request."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.coco_mask import encode_rle
from harness.data.scenes import NOUNS, Scene, check_config, draw_image, draw_scene, stretch

CATEGORIES = (
    *("Expressway-Service-area", "Expressway-toll-station", "airplane", "airport", "baseballfield"),
    *("basketballcourt", "bridge", "chimney", "dam", "golffield", "groundtrackfield", "harbor", "overpass"),
    *("ship", "stadium", "storagetank", "tenniscourt", "trainstation", "vehicle", "windmill"),
)
"""The classes of RRSIS-D; the ids of the published file are read from it, those written here count from 1."""

QUIRKS = {("test", 0): "empty", ("train", 0): "height", ("train", 1): "bbox", ("train", 2): "polygon"}
"""(split, index) -> defect: empty mask, image of another height than its mask, stale box, polygon segmentation."""

_FIRST_IMAGE_ID = 11
_FIRST_ANNOTATION_ID = 20_001
_JPEG_QUALITY = 92


class _Sample(NamedTuple):
    number: int
    split: str
    scene: Scene
    quirk: str

    @property
    def image_id(self) -> int:
        return _FIRST_IMAGE_ID + self.number

    @property
    def annotation_id(self) -> int:
        return _FIRST_ANNOTATION_ID + self.number

    @property
    def category_id(self) -> int:
        return 1 + CATEGORIES.index(self.scene.objects[self.scene.target].category)


def write_miniature(root: Path, config: SyntheticConfig) -> None:
    """Write images, XML, `instances.json` and `refs(unc).p` (protocol 2, builtin types only).

    Args:
        root: Folder to write into; created if missing, its files of the same names are replaced.
        config: Equal configs give equal bytes with the same version of Pillow.

    Raises:
        DataError: The config cannot be generated.
    """
    check_config(config)
    images, boxes, index = (root / "images/rrsisd/JPEGImages", root / "images/rrsisd/ann_split", root / "rrsisd")
    for folder in (images, boxes, index):
        folder.mkdir(parents=True, exist_ok=True)
    refs: list[dict[str, Any]] = []
    instances: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    instances["categories"] = [{"id": n, "name": name} for n, name in enumerate(CATEGORIES, start=1)]
    places = [(split, i) for split in SPLITS for i in range(getattr(config, split))]
    for number, (split, i) in enumerate(places):
        quirk = QUIRKS.get((split, i), "") if config.quirks else ""
        sample = _Sample(number, split, draw_scene(config, split, i), quirk)
        pixels = draw_image(sample.scene, config, split, i)
        pixels = stretch(pixels) if quirk == "height" else pixels
        name = f"{sample.image_id:05d}"
        Image.fromarray(pixels).save(images / f"{name}.jpg", quality=_JPEG_QUALITY, subsampling=0)
        _write_xml(boxes / f"{name}.xml", sample)
        refs.append(_reference(sample))
        height, width = config.size, config.size
        instances["images"].append(
            {"id": sample.image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
        )
        instances["annotations"].append(_annotation(sample))
    (index / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    (index / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def _reference(sample: _Sample) -> dict[str, Any]:
    raw = sample.scene.sentence
    sent = raw.lower().rstrip(".")
    sentence = {"sent_id": sample.number, "tokens": sent.split(), "raw": raw, "sent": sent}
    return {
        "ref_id": sample.number,
        "ann_id": sample.annotation_id,
        "image_id": sample.image_id,
        "category_id": sample.category_id,
        "split": sample.split,
        "file_name": f"{sample.image_id:05d}.jpg",
        "sent_ids": [sample.number],
        "sentences": [sentence],
    }


def _annotation(sample: _Sample) -> dict[str, Any]:
    scene = sample.scene
    mask = scene.mask(scene.target)
    box = list(_bounds(mask))
    if sample.quirk == "empty":
        mask, box = np.zeros_like(mask), [0, 0, 0, 0]
    if sample.quirk == "bbox":
        box = [2 * v + scene.size // 2 for v in box]
    run_lengths = {"size": list(mask.shape), "counts": encode_rle(mask)}
    outline = scene.objects[scene.target].outline()
    return {
        "id": sample.annotation_id,
        "image_id": sample.image_id,
        "categories_id": sample.category_id,
        "bbox": box,
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": [outline if sample.quirk == "polygon" else run_lengths],
    }


def _bounds(mask: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """`x1, y1, x2, y2` of a mask, end exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _write_xml(path: Path, sample: _Sample) -> None:
    """VOC-style boxes of all objects, the target last and with its mask; no loader reads it."""
    scene = sample.scene
    top = ElementTree.Element("annotation")
    ElementTree.SubElement(top, "folder").text = "JPEGImages"
    ElementTree.SubElement(top, "filename").text = f"{sample.image_id:05d}.jpg"
    size = ElementTree.SubElement(top, "size")
    for tag, value in (("width", scene.size), ("height", scene.size), ("depth", 3)):
        ElementTree.SubElement(size, tag).text = str(value)
    others = [i for i in range(len(scene.objects)) if i != scene.target]
    for i in (*others, scene.target):
        item, mask = scene.objects[i], scene.mask(i)
        entry = ElementTree.SubElement(top, "object")
        ElementTree.SubElement(entry, "name").text = item.category
        ElementTree.SubElement(entry, "pose").text = "Unspecified"
        box = ElementTree.SubElement(entry, "bndbox")
        for tag, bound in zip(("xmin", "ymin", "xmax", "ymax"), _bounds(mask), strict=True):
            ElementTree.SubElement(box, tag).text = str(bound)
        is_target = i == scene.target
        description = scene.sentence if is_target else f"A {item.colour} {NOUNS[item.category]}"
        ElementTree.SubElement(entry, "description").text = description
        if is_target:
            ElementTree.SubElement(entry, "segmentation").text = encode_rle(mask)
    ElementTree.indent(top)
    ElementTree.ElementTree(top).write(path, encoding="utf-8")
