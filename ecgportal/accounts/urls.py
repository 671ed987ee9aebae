from django.contrib.auth.views import LogoutView
from django.urls import path

from ecgportal.accounts import views

app_name = "accounts"
urlpatterns = [
    path("login/", views.LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("tokens/", views.TokensView.as_view(), name="tokens"),
    path("tokens/<uuid:pk>/delete/", views.TokenDeleteView.as_view(), name="token_delete"),
    path("password/", views.PasswordView.as_view(), name="password"),
    path("users/", views.UsersView.as_view(), name="users"),
    path("users/new/", views.UserCreateView.as_view(), name="user_create"),
    path("users/<uuid:pk>/", views.UserView.as_view(), name="user"),
]
