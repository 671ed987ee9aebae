"""Audit verbs of the views."""

from ecgportal.audit.actions import register

register(dataset__mapped="had a map of {object} made", dataset__map_deleted="deleted a map of {object}")
