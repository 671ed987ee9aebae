"""The ECG of a record as a file: SVG, and PDF in true size. Both take the view from the address."""

from __future__ import annotations

import io
from typing import Any

from django.http import HttpRequest, HttpResponse

from ecgportal.audit.trail import record as audit
from ecgportal.pdf import drawing
from ecgportal.projects.access import Action
from viz import showing
from viz.figures.ecg12 import ecg_svg
from viz.views import RecordView

_A4_MM = (297.0, 210.0)
_MARGIN_MM = 8.0


def picture(view: RecordView, *, width: str, uid: str = "ecg") -> str:
    """Return the record's ECG as SVG with everything that the address asks for."""
    row = view.object
    asked = showing.read(view.request.GET, row.leads)
    original = showing.source_of(row)
    shown, _ = showing.at_stage(row, original, asked.signal)
    found = None if asked.blind else showing.measurements(row, original, asked.view)
    over = showing.overlays(row, original, asked, found) if shown is original else None
    return ecg_svg(shown, asked.view, showing.header_of(row, asked, found), overlays=over, width=width, uid=uid)


def true_size_pdf(svg: str, title: str) -> bytes:
    """Return one page with a picture whose size is given in millimetres, in that size.

    The page is A4 landscape where the picture fits, else as large as the picture and its margin. Print it at 100 %.
    """
    from reportlab.graphics import renderPDF
    from reportlab.lib.units import mm
    from reportlab.pdfgen.canvas import Canvas

    shape = drawing(svg)
    needed = (shape.width / mm + 2 * _MARGIN_MM, shape.height / mm + 2 * _MARGIN_MM)
    fits = needed[0] <= _A4_MM[0] and needed[1] <= _A4_MM[1]
    width, height = (side * mm for side in (_A4_MM if fits else needed))
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(width, height), invariant=1)
    canvas.setTitle(title)
    canvas.setAuthor("ECG Portal")
    renderPDF.draw(shape, canvas, (width - shape.width) / 2, (height - shape.height) / 2)
    canvas.showPage()
    canvas.save()
    return out.getvalue()


class RecordSvg(RecordView):
    """The figure as SVG, in true size with ``?size=true``."""

    needs = {"get": Action.DATA_VIEW}

    def get(self, request: HttpRequest, pk: Any) -> HttpResponse:
        text = picture(self, width="true" if request.GET.get("size") == "true" else "100%")
        return self._file(text, "svg", "image/svg+xml")

    def _file(self, content: str | bytes, kind: str, content_type: str) -> HttpResponse:
        audit("record.downloaded", self.object, actor=self.request.user, project=self.project, changes={"format": kind})
        name = f'attachment; filename="{self.object.pk}.{kind}"'
        return HttpResponse(content, content_type=content_type, headers={"Content-Disposition": name})


class RecordPdf(RecordSvg):
    """The figure as PDF in true size: 25 mm of paper are 25 mm."""

    def get(self, request: HttpRequest, pk: Any) -> HttpResponse:
        return self._file(
            true_size_pdf(picture(self, width="true"), f"ECG {self.object.key}"), "pdf", "application/pdf"
        )
