"""All addresses of the portal."""

urlpatterns: list = []
