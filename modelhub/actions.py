"""Audit verbs of the model hub."""

from ecgportal.audit.actions import register

register(
    prediction__explained="asked why a model answered so on {object}",
    model__created="created the model {object}",
    model__deleted="deleted the model {object}",
    model_version__created="added the model version {object}",
    model_version__changed="changed the model version {object}",
    model_version__completed="said what the model version {object} expects",
    model_version__retired="retired the model version {object}",
    model_version__reinstated="took the model version {object} back into use",
    model_version__alias_moved="moved an alias to or from the model version {object}",
    model_version__accepted="accepted the model version {object}",
    model_version__downloaded="downloaded the model version {object}",
    model_version__refused="was refused the import of {object}",
    prediction__started="started predictions with {object}",
    prediction__resumed="resumed predictions with {object}",
    prediction__downloaded="downloaded predictions of {object}",
    exchange__created="added the exchange {object}",
    exchange__changed="changed the exchange {object}",
    exchange__deleted="removed the exchange {object}",
    exchange__pushed="published {object}",
    exchange__pulled="pulled {object}",
    catalogue__proposed="proposed {object} for the catalogue",
    catalogue__withdrawn="withdrew {object} from the catalogue",
    catalogue__approved="approved {object} in the catalogue",
    catalogue__refused="refused {object} in the catalogue",
    catalogue__retired="retired {object} in the catalogue",
    catalogue__shared="changed who sees {object} in the catalogue",
    catalogue__copied="copied {object} from the catalogue",
)
