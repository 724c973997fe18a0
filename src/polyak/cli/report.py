"""polyak report DIR: write a study's page again from its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polyak.report.ledger import claims_line
from polyak.report.page import write_report


@dataclass(frozen=True)
class ReportCommand:
    """Write the report of a study again; nothing is trained."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The study's folder, such as out/demo."""

    def run(self) -> int:
        """Exit code 0."""
        # "." has a name only once it is resolved.
        folder = self.folder.resolve()
        page = write_report(folder.parent, folder.name)
        print(claims_line(folder))
        print(f"report: {page.resolve()}")
        return 0
