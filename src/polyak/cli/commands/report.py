"""polyak report DIR: write a study's page again from its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polyak.analysis.loaded import load_study
from polyak.cli.json_output import print_json
from polyak.cli.run_names import studies_in
from polyak.errors import FileError, few
from polyak.report.archive import write_archive
from polyak.report.page import write_report
from polyak.report.sections.claims import FILE, claim_verdicts, claims_line
from polyak.report.sections.own_claims import own_claims, own_claims_line
from polyak.threads import on_one_thread


@dataclass(frozen=True)
class ReportCommand:
    """Write the report of a study again; nothing is trained."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The study's folder, such as out/demo."""

    keep: Path | None = None
    """Also write there what is worth keeping when the runs are thrown away: the page, all numbers
    and curves as CSV, the configurations; no weights."""

    json: bool = False
    """One JSON object on stdout instead, see docs/json.md."""

    def run(self) -> int:
        """Exit code 0."""
        # "." has a name only once it is resolved.
        folder = self.folder.resolve()
        _check_is_study(self.folder)
        with on_one_thread():
            study = load_study(folder.parent, folder.name)
            page = write_report(folder.parent, folder.name, study=study)
            if self.keep is not None:
                write_archive(folder.parent, folder.name, self.keep, study=study)
        if self.json:
            self._print_json(folder, page)
            return 0
        print(f"report: {page.resolve()}")
        print(claims_line(page.parent))
        if own := own_claims(page.parent):
            print(own_claims_line(own))
        if self.keep is not None:
            print(f"kept: {self.keep.resolve()}")
        return 0

    def _print_json(self, folder: Path, page: Path) -> None:
        results = folder / "results.parquet"
        found = {
            "study": folder.name,
            "page": page.resolve(),
            "results": results if results.exists() else None,
            "ledger": page.resolve().parent / FILE,
            "claims": [
                {"id": name, "verdict": verdict}
                for name, verdict in claim_verdicts(page.parent).items()
            ],
            "own_claims": own_claims(page.parent),
            "kept": self.keep and self.keep.resolve(),
        }
        print_json("polyak-report", found)


def _check_is_study(folder: Path) -> None:
    """Refuse an output folder by the studies that lie in it."""
    studies = [] if (folder / "plan.json").exists() else studies_in(folder)
    if studies:
        named = few([f"'{study}'" for study in studies])
        raise FileError(
            f"folder is '{folder}', which holds studies; expected one of {named}. Name it."
        )
