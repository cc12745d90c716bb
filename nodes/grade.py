"""Grades: fitted to an edit, applied to pictures of any size, saved and exchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..models import files, host
from ..models.errors import UserError
from .layouts import to_bchw, to_bhwc
from .widgets import choice, flag, real, share, socket, text

_GRADES = "grades"


def _folders() -> list[Path]:
    ui = host.current()
    return [ui.output_dir / _GRADES, *ui.models_dirs(_GRADES)]


def _file(name: str) -> Path:
    from ..models.grade import FORMATS

    names = [name] if Path(name).suffix in FORMATS.values() else [name + suffix for suffix in FORMATS.values()]
    for folder in _folders():
        for path in (files.safe_join(folder, each) for each in names):
            if path.is_file():
                return path
    raise UserError(
        f"There is no grade named '{name}' in {' or '.join(str(f) for f in _folders())}. Save one with Save Grade, or "
        "put a .cube file there."
    )


class AffectGradeFit:
    CATEGORY = "affect/grade"
    SEARCH_ALIASES = [
        "return to source",
        "color grade from edit",
        "bilateral guided upsampling",
        "full resolution edit",
        "transfer edit to original",
        "match colors of edit",
    ]
    DESCRIPTION = (
        "Brings an edit back to the source's own pixels: whatever edited a small copy (an editing model, MUSE, EmoLat, "
        "a hand), its change of colour and light becomes a grade, applied to the source at its full size. No pixel "
        "moves."
    )
    RETURN_TYPES = ("IMAGE", "AFFECT_GRADE", "IMAGE", "STRING")
    RETURN_NAMES = ("image", "grade", "residual", "json")
    OUTPUT_TOOLTIPS = (
        "The source, graded.",
        "The grade: for a series, for Save Grade.",
        "What of the edit no grade can say, around grey: objects that it drew, textures.",
        "Where the edit was found, and how much of it the grade holds.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": socket("IMAGE", "The source, of any size; or several."),
                "edited": socket("IMAGE", "Its edit, of any size, by any editor: one, or one of each source."),
                "detail": share(0.5, "0: one change for the whole picture. More: another one at each place."),
                "align": flag(True, "Looks for the edit on its source first: editing models move and scale pictures."),
            },
            "optional": {
                "mask": socket("MASK", "Only what lies inside is looked at. The grade holds everywhere."),
            },
        }

    def run(self, image: Any, edited: Any, detail: float, align: bool, mask: Any = None) -> tuple[Any, Any, Any, str]:
        from ..models.grade.apply import apply_grade
        from ..models.grade.edit import grade_from_edit
        from ..models.tensors.masks import sized_mask

        if len(edited) not in (1, len(image)):
            raise UserError(
                f"There are {len(edited)} edits of {len(image)} pictures. Connect one edit, or one of each picture."
            )
        sources = to_bchw(image[: len(edited)]).cpu()
        where = None if mask is None else sized_mask(mask[:1].cpu(), sources)
        found = grade_from_edit(sources, to_bchw(edited).cpu(), detail, align, where, "from an edit")
        if found.expressed < 0.5:
            host.current().note(
                f"Only {found.expressed:.0%} of this edit's change is one of colour and light that a grade can hold. "
                "The residual shows the rest: what it drew anew stays in the edit."
            )
        shown = to_bhwc((0.5 + 0.5 * found.residual).clamp(0, 1))
        return apply_grade(image, found.grade), found.grade, shown, json.dumps(found.to_json(), indent=1)


class AffectGradeApply:
    CATEGORY = "affect/grade"
    SEARCH_ALIASES = ["apply lut", "3d lut", "color grade", "grade video", "apply look"]
    DESCRIPTION = "Applies a grade to pictures of any size, or to the frames of a series: the same for all of them."
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The graded pictures.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": socket("IMAGE", "One picture or a series."),
                "grade": socket("AFFECT_GRADE", "From Grade from Edit, a transfer, or Load Grade."),
                "strength": real(1.0, (0.0, 2.0, 0.05), "0: nothing changes. 1: the grade. Above: beyond it."),
            },
            "optional": {"mask": socket("MASK", "Where it is black the picture stays, exactly.")},
        }

    def run(self, image: Any, grade: Any, strength: float, mask: Any = None) -> tuple[Any]:
        from ..models.grade.apply import apply_grade
        from ..models.tensors.masks import sized_mask

        where = None if mask is None else sized_mask(mask, image.movedim(-1, 1))[:, 0]
        return (apply_grade(image, grade, strength, where),)


class AffectGradeSave:
    CATEGORY = "affect/grade"
    SEARCH_ALIASES = ["export lut", "save lut", "save cube", "export look"]
    DESCRIPTION = (
        "Saves a grade: as it is, or as a 3D lookup table (.cube) for other programs, which holds its mean over the "
        "picture."
    )
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.grade import FORMATS

        return {
            "required": {
                "grade": socket("AFFECT_GRADE", "The grade."),
                "name": text(
                    "A file of this name goes into output/grades and replaces an older one.", default="my_grade"
                ),
                "format": choice(FORMATS, "local: everything, as safetensors. cube: a 3D LUT, for grading programs."),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None = None) -> bool | str:
        if name is None:
            return True
        if not name.strip():
            return "Give the grade a name."
        files.safe_join(_folders()[0], name)
        return True

    def run(self, grade: Any, name: str, format: str) -> dict[str, Any]:
        from ..models.grade import FORMATS
        from ..models.grade.cube import Cube, place_share, save_cube

        suffix = FORMATS[format]
        path = files.safe_join(_folders()[0], name.removesuffix(suffix) + suffix)
        if suffix == ".cube":
            save_cube(path, grade)
            lost = 0.0 if isinstance(grade, Cube) else place_share(grade)
            told = (
                f" {lost:.0%} of the change differs from place to place, which a table cannot hold."
                if lost > 0.01
                else ""
            )
            return {"ui": {"text": [f"Saved {path.name}.{told}"]}}
        if isinstance(grade, Cube):
            raise UserError("This grade was read from a .cube file. Save it as cube: there is nothing local in it.")
        grade.save(path)
        return {"ui": {"text": [f"Saved {path.name}."]}}


class AffectGradeLoad:
    CATEGORY = "affect/grade"
    SEARCH_ALIASES = ["import lut", "load lut", "load cube", "saved grade"]
    DESCRIPTION = "Loads a saved grade, or a .cube file from another program."
    RETURN_TYPES = ("AFFECT_GRADE",)
    OUTPUT_TOOLTIPS = ("The grade.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": text("A name in output/grades or models/grades.", default="my_grade")}}

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None = None) -> bool | str:
        if name is not None:
            _file(name)
        return True

    @classmethod
    def IS_CHANGED(cls, name: str) -> str:
        try:
            return files.checksum(_file(name))
        except UserError:
            return "absent"

    def run(self, name: str) -> tuple[Any]:
        from ..models.grade.cube import load_cube
        from ..models.grade.grid import Grid

        path = _file(name)
        return (load_cube(path) if path.suffix == ".cube" else Grid.load(path),)


NODES = {
    "AffectGradeFit": (AffectGradeFit, "Grade from Edit"),
    "AffectGradeApply": (AffectGradeApply, "Apply Grade"),
    "AffectGradeSave": (AffectGradeSave, "Save Grade"),
    "AffectGradeLoad": (AffectGradeLoad, "Load Grade"),
}
