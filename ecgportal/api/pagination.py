from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request

from ecgportal.errors import InvalidInput


class Pages(PageNumberPagination):
    """``?page=&page_size=``; at most 500 rows a page."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500

    def get_page_size(self, request: Request) -> int | None:
        given = request.query_params.get("page_size")
        if given is not None and not (given.isascii() and given.isdecimal() and int(given[:9]) > 0):
            raise InvalidInput(
                "The page size is no number of rows.",
                fields={"page_size": f"A whole number from 1 to {self.max_page_size}."},
            )
        return super().get_page_size(request)
