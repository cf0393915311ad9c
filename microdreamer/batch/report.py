"""What became of each picture of a batch: a page to look at and the same as JSON, both written whole after every picture."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from microdreamer.batch.pictures import Item
from microdreamer.core.files import atomic_write, readable
from microdreamer.images.reading import read_image

WAITING, DONE, FAILED = "waiting", "done", "failed"
STEM = "report"  # of report.html, report.json and the folder of thumbnails
THUMBNAIL = 128  # px of the picture in it, beside half as many columns of views
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ padding: .4rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; overflow-wrap: anywhere }}
img {{ width: {width}px; max-width: 100%; height: auto; background: #eee }}
td:first-child {{ min-width: {width}px }} td:nth-child(2) {{ min-width: 10rem }}
.failed {{ background: #fdecea }} .waiting {{ color: #777 }}
@media (max-width: 700px) {{ table, tbody, tr, td {{ display: block }} thead {{ display: none }} td {{ border: 0; padding: .1rem 0 }}
td:first-child, td:nth-child(2) {{ min-width: 0 }}
tr {{ border-bottom: 1px solid #ddd; padding: .6rem 0 }} }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<table><thead><tr><th>picture and result</th><th>name</th><th>what became of it</th><th>files</th></tr></thead><tbody>
{rows}
</tbody></table>
</html>
"""


@dataclasses.dataclass
class Row:
    """One picture of a batch.

    status: waiting, done or failed. resumed: whether an earlier run had made the result. message: why it failed, in one line.
    notes: what was said of it on the way. thumbnail, files: names within the folder of the results.
    """

    picture: str
    name: str
    status: str = WAITING
    resumed: bool = False
    message: str | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float | None = None
    gaussians: int | None = None
    input_view_psnr_db: float | None = None
    thumbnail: str | None = None
    files: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Report:
    """A batch: its folder, its configuration (as of the results' JSON files), its pictures in order."""

    folder: Path
    config: dict[str, Any]
    rows: list[Row]

    def count(self, status: str) -> int:
        return sum(row.status == status for row in self.rows)

    @property
    def summary(self) -> str:
        """How many are done, have failed and are left, in one line."""
        said = [f"{self.count(DONE)} of {len(self.rows)} pictures done"]
        if resumed := sum(row.resumed for row in self.rows):
            said[0] += f" ({resumed} by an earlier run)"
        said += [f"{number} {status}" for status in (FAILED, WAITING) if (number := self.count(status))]
        return ", ".join(said)

    def write(self) -> None:
        """Write report.json and report.html, each whole or not at all. Raises OSError where that fails."""
        counts = {status: self.count(status) for status in (DONE, FAILED, WAITING)}
        data = {"counts": counts, "pictures": [dataclasses.asdict(row) for row in self.rows], "config": self.config}
        with atomic_write(self.folder / f"{STEM}.json") as temporary:
            text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        with atomic_write(self.folder / f"{STEM}.html") as temporary:
            temporary.write_text(self._page(), encoding="utf-8")

    def _page(self) -> str:
        rows = "\n".join(map(_as_html, self.rows))
        shown = {"title": "Batch of pictures", "summary": html.escape(self.summary), "rows": rows, "width": THUMBNAIL * 3}
        return PAGE.format(**shown)


def _as_html(row: Row) -> str:
    """The row of a table; whatever comes from files or their names is text there, never markup."""
    picture = f'<img loading="lazy" alt="" src="{html.escape(_link(row.thumbnail))}">' if row.thumbnail else ""
    said = [row.status + (", by an earlier run" if row.resumed else "")]
    if row.message:
        said.append(row.message)
    if row.seconds is not None:
        said.append(f"{row.seconds:.1f} s")
    if row.gaussians is not None:
        said.append(f"{row.gaussians} Gaussians")
    if row.input_view_psnr_db is not None:
        said.append(f"{row.input_view_psnr_db:.1f} dB to the picture")
    became = "<br>".join(html.escape(readable(text)) for text in [*said, *row.notes])
    files = " ".join(f'<a href="{html.escape(_link(name))}">{html.escape(readable(name))}</a>' for name in row.files)
    name = f"{html.escape(row.name)}<br><small>{html.escape(readable(row.picture))}</small>"
    return f'<tr class="{row.status}"><td>{picture}</td><td>{name}</td><td>{became}</td><td>{files}</td></tr>'


def _link(name: str) -> str:
    """The name of a file beside the page, as a relative link."""
    from urllib.parse import quote

    return quote(name, safe="/", errors="surrogateescape")


def write_thumbnail(stem: Path, picture: Path, views: Path | None) -> str | None:
    """Write a small picture of what went in and of the result's sheet of views, where there is one.

    Its name within the folder of `stem`, or None where the picture cannot be read or nothing be written: the report does without it.
    """
    canvas = Image.new("RGB", (3 * THUMBNAIL, THUMBNAIL), "white")
    target = stem.parent / STEM / f"{stem.name}.jpg"
    try:
        for source, left, width in ((picture, 0, THUMBNAIL), (views, THUMBNAIL, 2 * THUMBNAIL)):
            if source is not None:
                small = read_image(source)
                small.thumbnail((width, THUMBNAIL))
                place = (left + (width - small.width) // 2, (THUMBNAIL - small.height) // 2)
                canvas.paste(small, place, small if small.mode == "RGBA" else None)
        with atomic_write(target) as temporary:
            canvas.save(temporary, format="JPEG", quality=85)
    except (ValueError, OSError):
        return None
    return f"{STEM}/{target.name}"


def rows_of(items: Sequence[Item]) -> list[Row]:
    """The objects of a batch as rows that wait."""
    return [Row(item.text, item.name) for item in items]
