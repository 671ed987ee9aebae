from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "ecgportal.accounts"
    label = "accounts"
