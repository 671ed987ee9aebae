"""The portal's Dash views; each module registers its app."""

from viz import dash_setup

dash_setup.prepare()
