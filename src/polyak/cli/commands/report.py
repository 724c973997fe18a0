"""polyak report DIR: write a study's page again from its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polyak.report.archive import write_archive
from polyak.report.page import write_report
from polyak.report.sections.claims import claims_line


@dataclass(frozen=True)
class ReportCommand:
    """Write the report of a study again; nothing is trained."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The study's folder, such as out/demo."""

    keep: Path | None = None
    """Also write there what is worth keeping when the runs are thrown away: the page, all numbers
    and curves as CSV, the configurations; no weights."""

    def run(self) -> int:
        """Exit code 0."""
        # "." has a name only once it is resolved.
        folder = self.folder.resolve()
        page = write_report(folder.parent, folder.name)
        print(f"report: {page.resolve()}")
        print(claims_line(page.parent))
        if self.keep is not None:
            write_archive(folder.parent, folder.name, self.keep)
            print(f"kept: {self.keep.resolve()}")
        return 0
