"""Settings, all from environment variables or a ``.env`` file; README lists them."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import warnings
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from ecgportal import bucket, home
from ecgportal.client_address import networks

BASE_DIR = Path(__file__).resolve().parent.parent
PORTAL_HOME = home.portal_home()
PRODUCTION = os.environ.get("PORTAL_ENV", "") == "production"
DEBUG = False

# Files lie under PORTAL_HOME, or in a bucket that several hosts share (ecgportal.storage).
STORAGE_URL = os.environ.get("PORTAL_STORAGE_URL", "")
try:
    if STORAGE_URL:
        bucket.parse(STORAGE_URL)
except ValueError as error:
    raise ImproperlyConfigured(
        f"PORTAL_STORAGE_URL cannot be used: {error}. Unset, files lie under PORTAL_HOME."
    ) from error
if STORAGE_URL and not home.uses_embedded() and not os.environ.get("PORTAL_SECRET_KEY"):
    raise ImproperlyConfigured(
        "PORTAL_STORAGE_URL and DATABASE_URL are set, so several hosts may work together, each with a PORTAL_HOME of its own. Set "
        f"PORTAL_SECRET_KEY, too, the same on every host (a portal that ran before has it in {PORTAL_HOME / 'secret_key'})."
    )
SECRET_KEY = home.secret_key()
_hosts = [host for host in os.environ.get("PORTAL_ALLOWED_HOSTS", "").split(",") if host]
if PRODUCTION and not _hosts:
    raise ImproperlyConfigured(
        "PORTAL_ALLOWED_HOSTS must name the host names of this portal when PORTAL_ENV=production."
    )
ALLOWED_HOSTS = _hosts or ["localhost", "127.0.0.1", "[::1]", "testserver", os.environ.get("PORTAL_BIND", "127.0.0.1")]
CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in _hosts if host != "*"]

INSTALLED_APPS = [
    # Before Django's own, for the commands of the same names.
    "ecgportal.accounts",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "csp",
    "django_htmx",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "django_plotly_dash.apps.DjangoPlotlyDashConfig",
    "dpd_static_support",
    "ecgportal.audit",
    "ecgportal.projects",
    "ecgportal.jobs",
    "datasets",
    "modelhub",
    "training",
    "viz",
]
# The process of a job serves no pages; the libraries behind them take a third of a second to load.
if sys.argv[1:2] == ["run_job"]:
    INSTALLED_APPS = [name for name in INSTALLED_APPS if "dash" not in name and "dpd" not in name]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "ecgportal.middleware.UnkeptMiddleware",
    "ecgportal.middleware.StrangersMiddleware",
    "ecgportal.middleware.AuditContextMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "ecgportal.middleware.PortalErrorMiddleware",
    "django_plotly_dash.middleware.BaseMiddleware",
    "django_plotly_dash.middleware.ExternalRedirectionMiddleware",
]

ROOT_URLCONF = "ecgportal.urls"
WSGI_APPLICATION = "ecgportal.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "ecgportal.context.portal",
            ],
            "builtins": ["ecgportal.glossary_tags"],
        },
    }
]


DATABASES = {"default": {**home.database_settings(), "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "accounts:login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "accounts:login"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
API_TOKEN_DAYS = 90

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
STATIC_ROOT = PORTAL_HOME / "static"
STATICFILES_DIRS = [BASE_DIR / "ecgportal" / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "django_plotly_dash.finders.DashAssetFinder",
    "django_plotly_dash.finders.DashComponentFinder",
    "django_plotly_dash.finders.DashAppDirectoryFinder",
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
# The Dash libraries, every link to which bears their version (viz.dash_setup), are kept by browsers for good.
WHITENOISE_IMMUTABLE_FILE_TEST = r"^/static/dash/component/"
MEDIA_ROOT = PORTAL_HOME / "blobs"
FILE_UPLOAD_TEMP_DIR = None
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
DATA_UPLOAD_MAX_NUMBER_FILES = 20_000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5_000

PLOTLY_DASH = {
    "serve_locally": True,
    "cache_arguments": False,
    "view_decorator": "viz.guard.dash_guard",
}
PLOTLY_COMPONENTS = ["dpd_components", "dpd_static_support", "dash_bootstrap_components"]
X_FRAME_OPTIONS = "SAMEORIGIN"

# Dash starts itself with this one inline script; its hash lets it run under a policy without 'unsafe-inline'.
_DASH_RENDERER = "var renderer = new DashRenderer();"
_DASH_HASH = "'sha256-" + base64.b64encode(hashlib.sha256(_DASH_RENDERER.encode()).digest()).decode() + "'"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'", _DASH_HASH],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:", "blob:"],
        "font-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "worker-src": ["'self'", "blob:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'self'"],
    }
}
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
try:
    TRUSTED_PROXIES = networks(os.environ.get("PORTAL_TRUSTED_PROXIES", ""))
except ValueError as error:
    raise ImproperlyConfigured(
        f"PORTAL_TRUSTED_PROXIES must list addresses or networks such as 10.0.0.0/8, separated by commas: {error}."
    ) from error
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
if PRODUCTION:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 31_536_000

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "ecgportal.accounts.tokens.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": [
        "ecgportal.api.parsers.ObjectParser",
        "ecgportal.api.parsers.FieldsParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "ecgportal.api.pagination.Pages",
    "PAGE_SIZE": 50,
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "URL_FORMAT_OVERRIDE": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "ecgportal.api.errors.handle",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "ECG Portal",
    "DESCRIPTION": "[Back to the portal](/). A script signs in with a token, which [your account](/accounts/tokens/) makes, sent as "
    "`Authorization: Token KEY`. Signals are millivolt, time is seconds from the record's start, rates are hertz. "
    "Research use, not a medical device.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "CatalogueStateEnum": "modelhub.models.CatalogueState",
        "JobStateEnum": "ecgportal.jobs.models.JobState",
        "VersionStateEnum": "modelhub.models.VersionState",
    },
}

# A queue message only says "start job N". Starting is idempotent (compare-and-set on the job's row), so the
# short retry re-delivers messages that died with a worker and does no harm to jobs that run.
warnings.filterwarnings("ignore", message="Retry and timeout are misconfigured")
Q_CLUSTER = {
    "name": "portal",
    "orm": "default",
    "poll": 0.2,
    "workers": int(os.environ.get("PORTAL_IO_WORKERS", "2")),
    "timeout": None,
    "retry": 60,
    "queue_limit": 4,
    "ack_failures": True,
    "save_limit": 200,
    "catch_up": False,
    "label": "Queue",
    "ALT_CLUSTERS": {
        "train": {
            "timeout": None,
            "retry": 60,
            "workers": int(os.environ.get("PORTAL_TRAIN_WORKERS", "1")),
            "queue_limit": 2,
            "ack_failures": True,
        },
    },
}
# With how many processes of its host a training computes (0: one for each accelerator, or one).
TRAIN_PROCESSES = int(os.environ.get("PORTAL_TRAIN_PROCESSES", "0"))
# A running job hears with each beat whether it was cancelled.
JOB_HEARTBEAT_S = 1.0
JOB_STALE_S = 30.0
# After how long a job is tried again that the bucket did not let go on; longer with each try.
STORAGE_WAIT_S = 20.0
# How many GB of copies of the bucket a host keeps (0: any number; None: half of the disk).
_copies_gb = os.environ.get("PORTAL_COPIES_GB", "")
COPIES_GB = float(_copies_gb) if _copies_gb else None
# How long a job that can go on later may hold a worker while others wait for one.
JOB_TURN_S = 60.0
# Whether a worker of trainings keeps a process that has loaded what a training needs, so that the next one begins at once.
WARM_START = os.environ.get("PORTAL_WARM_START", "1") != "0"

# Processes that read the files of one upload side by side (0: as many as there are cores), and the address space of each.
READERS = int(os.environ.get("PORTAL_READERS", "0"))
READER_MEMORY_BYTES = int(float(os.environ.get("PORTAL_READER_MEMORY_GB", "12")) * 1024**3)

# An upload is followed by measuring its dataset while no more records than these are unmeasured (0: never).
MEASURE_UP_TO = int(os.environ.get("PORTAL_MEASURE_UP_TO", "5000"))

# Folders of this machine from which known collections of ECGs may be imported, and where they are downloaded from ("": nowhere).
IMPORT_ROOTS = [Path(folder) for folder in os.environ.get("PORTAL_IMPORT_ROOTS", "").split(os.pathsep) if folder]
PHYSIONET_URL = os.environ.get("PORTAL_PHYSIONET_URL", "https://physionet.org/files/")

# The exchange may reach loopback and private addresses while the portal itself is a local installation;
# in production an operator has to say so. Link-local addresses are never reached.
EXCHANGE_ALLOW_PRIVATE = os.environ.get("PORTAL_EXCHANGE_ALLOW_PRIVATE", "0" if PRODUCTION else "1") == "1"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "ecgportal.logfiles.ReticentFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "django_plotly_dash": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "botocore": {"level": "WARNING"},
    },
}
