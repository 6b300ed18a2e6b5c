"""``dropopt report``."""

from __future__ import annotations

from pathlib import Path

from dropopt.formats import printable
from dropopt.study.command import options


def report(
    study: options.StudyName = None,
    output: options.ReportOutput = None,
    png: options.PngFolder = None,
    storage: options.Storage = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a report of a study: one HTML file that opens without a network.

    It contains what was searched, the best configuration and how sure it is, charts, failures, and the commands that
    reproduce it.
    """
    from dropopt.study.command.output import check_writable
    from dropopt.study.report.build import build
    from dropopt.study.report.write import check_name, check_same_report, write, write_pictures
    from dropopt.study.show.console import busy
    from dropopt.study.show.next_lines import best_file
    from dropopt.study.store.opening import opened_study
    from dropopt.study.store.url import storage_hint

    with opened_study(storage, study) as found:
        path = output or Path(best_file(found.study_name, "html", "report"))
        check_name(path)
        check_writable(path)
        if not force:
            check_same_report(path, found.study_name)
        with busy("drawing the charts", quiet=quiet):
            made = build(found, storage_hint(storage))
            write(path, made)
            pictures = [] if png is None else write_pictures(png, made)
    if quiet:
        return
    name = printable(found.study_name)
    print(f"{path}: study {name}, {path.stat().st_size / 1e6:.1f} MB; open it in a browser")
    for picture in pictures:
        print(picture)
