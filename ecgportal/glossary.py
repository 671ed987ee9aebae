"""The terms that pages use, each explained once: the help page shows them, and signs beside headings and figures lead to them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """anchor: its name on the help page. names: what figures and metrics that are this term are called in the code."""

    anchor: str
    title: str
    text: str
    names: tuple[str, ...] = ()


# The way of the work, in its order: what is done, where, and what comes of it.
STEPS = (
    ("Create a project", "Projects, New project", "Data, models and runs belong to a project; only its members see them. Its owner adds members and says what each may do."),
    ("Upload ECGs", "Datasets, New dataset, Upload", "Drop files, folders or one archive, in whatever format they are. The page lists what became of every file, and asks about what a file does not say, such as its sampling rate."),
    ("Add labels", "Labels, in a dataset", "Upload the table that says what each ECG shows. A label map then sorts its codes into the classes that a model shall tell apart. Labels that lie in the files are taken by themselves."),
    ("Look at the records", "Open a record in the list", "Calibrated paper, measurements and labels on one page. Correct a label, or set one."),
    ("Train a model", "Training, New training run", "Tick the datasets, choose the label map, read the check, start. All other settings have defaults for small clinical datasets."),
    ("Judge it", "Evaluations", "Every training ends with an evaluation on patients that it has not seen. Read each figure with its interval, and look at the groups of patients for which the model is worse."),
    ("Use it", "Predictions", "Apply the model to any dataset of the project. Where records have labels, the list of answers that differ from them shows the model's mistakes, and mistakes in the labels."),
    ("Share it", "Exchange, Catalogue, or download", "A model leaves as an ONNX file or as a bundle; patient data never does. What comes in from others waits in quarantine until an owner has accepted it."),
)  # fmt: skip

DATA = (
    Term("record", "Record", "One ECG recording: its signal in every lead, with what its file says of it. The signal is kept as it was recorded; every preparation works on a copy."),
    Term("subject", "Subject", "The person of whom a record was made, under a pseudonym. Several records of one subject always stay on the same side of a split."),
    Term("lead", "Lead", "The voltage between certain places of the body over time. The standard ECG has twelve: I, II, III, aVR, aVL, aVF and V1 to V6."),
    Term("sampling-rate", "Sampling rate", "How many values per second a recording holds, in hertz (Hz)."),
    Term("quality", "Quality", "How well a record can be read, from 0 (unusable) to 1, judged by noise, missing stretches, flat leads and swapped electrodes. A flag names what was found."),
    Term("duplicate", "Duplicate", "A record whose signal is that of another one under a different name. Duplicates are never divided between training and evaluation."),
    Term("outlier", "Outlier", "A record whose measurements lie far from those of the others in its dataset. It may be rare, or wrong."),
    Term("label", "Label", "What somebody or some device says that a record shows, as a code: SCP-ECG (NORM), SNOMED CT (164889003), ICD-10 (I48), or a plain name. The portal never changes a code; a label map reads it."),
    Term("label-map", "Label map", "A table that sorts codes into the classes of a question, for instance eleven codes of infarction into the class MI. A record whose codes the map does not know says nothing about the question; it is left out, and not counted as healthy."),
    Term("recipe", "Recipe", "The steps that bring a record into the form that a model takes: leads, sampling rate, length, unit and, if wanted, filters. It is stored with the model, so that new records are prepared in the same way."),
)  # fmt: skip

TRAINING = (
    Term("task", "Task", "What a model answers: several findings at once (multi-label), one of several classes (multi-class), one finding or not (binary), or a number (regression)."),
    Term("split", "Split", "The division of the records into a training part, from which the network learns, a validation part, which chooses the epoch and the thresholds, and a test part, on which the model is judged. It goes by subjects: nobody is in two parts."),
    Term("held-back", "Held-back patients", "The patients of the test part. Nothing of them reaches the training, so the figures on them tell how the model does with patients that it has not met."),
    Term("fold", "Fold", "One of several equal parts of the records. Each fold is held out once while a network learns from the others, so that every record is judged by a network that has not seen it."),
    Term("network", "Network", "The arithmetic that turns a signal into an answer. Its weights are the numbers that training sets; the number of parameters says how many there are."),
    Term("fine-tune", "Fine-tuning", "Training that begins with the weights of an existing model and not with random ones. It needs fewer records, if the model has learned from similar ones."),
    Term("head", "Head", "The last layer of a network, which turns what the layers before it have found into the classes. Training the head alone is quick and suits few records."),
    Term("trunk", "Trunk", "All layers before the head. A run without labels gives a trunk: it answers nothing by itself and is there to be fine-tuned."),
    Term("ensemble", "Ensemble", "Several networks, trained on different parts of the records, that answer together by their mean. It is steadier than one network where records are few."),
    Term("companion", "Linear companion", "A linear model of fixed features that answers together with the networks. A few hundred records teach it more than they teach a deep network."),
    Term("epoch", "Epoch", "One pass over the training part. The model that is kept is the one of the epoch that did best on the validation part."),
    Term("loss", "Loss", "What training makes small: how far the answers lie from the labels. When it falls on the training part and rises on validation, the network begins to memorise."),
    Term("learning-rate", "Learning rate", "How far the weights move in one step. Too high, and training fails; too low, and it takes long."),
    Term("augmentation", "Augmentation", "Small random changes of the training signals, such as noise or a shift in time, which leave the finding as it is. The network learns not to rely on them. Amplitudes in mV are scaled by the spread of the signals where a recipe takes the unit away."),
    Term("seed", "Seed", "The number from which all chance of a run is drawn. The same seed, files and settings divide the records in the same way."),
    Term("learning-curve", "Learning curve", "The result of the same training on growing parts of the data. It shows what more labels would bring."),
)  # fmt: skip

JUDGING = (
    Term("class", "Class", "One of the answers between which a model tells, such as NORM or MI. The positive records of a class are those whose labels give it."),
    Term("probability", "Probability", "A model's answer for a class, between 0 and 1. It is as good as its calibration."),
    Term("threshold", "Threshold", "The probability from which on a class is called. A lower threshold finds more of the ill and calls more of the healthy; the portal chooses one for each class on the validation part. Where exactly one class holds, the class that exceeds its threshold the most is predicted."),
    Term("sensitivity", "Sensitivity", "Of the records that have the class, the share that the model calls. It is also named recall.", ("sensitivity",)),
    Term("specificity", "Specificity", "Of the records that do not have the class, the share that the model does not call.", ("specificity",)),
    Term("predictive-value", "Predictive values (PPV, NPV)", "Of the records that the model calls, the share that has the class (PPV, also named precision), and of those that it does not call, the share that does not have it (NPV). Both depend on how common the class is where the model is used."),
    Term("auroc", "AUROC", "Area under the ROC curve: the chance that a record with the class gets a higher probability than one without it. 1 is perfect, 0.5 is guessing. It does not depend on a threshold.", ("auroc_macro", "auroc", "roc")),
    Term("average-precision", "Average precision (AUPRC)", "Area under the curve of precision over recall. Guessing reaches the share of records with the class, so that it tells more than AUROC about rare classes.", ("auprc_macro", "precision_recall")),
    Term("f1", "F1", "The harmonic mean of precision and sensitivity at the threshold: high when most records with the class are called and few others. The weighted F1 is the mean over the classes, each counted by its records.", ("f1_macro", "f1_weighted", "f1")),
    Term("calibration", "Calibration", "Whether a probability means what it says: of the records with 0.8, eight in ten should have the class. The calibration error (ECE) is the mean distance from that; the Brier score is the mean squared distance of the probabilities from the truth.", ("ece", "brier", "calibration")),
    Term("confusion-matrix", "Confusion matrix", "How many records of each class were called what.", ("confusion",)),
    Term("mean-error", "Mean error and RMSE", "For a number: by how much the answers are off on average (MAE), and the root of the mean squared error (RMSE), in which large errors weigh more. R² is the share of the differences between records that the answers explain.", ("mae", "rmse", "r2")),
    Term("confidence-interval", "Confidence interval", "A range made so that in 95 of 100 such studies it holds the true value. With few patients it is wide. Whole subjects are drawn again and again (bootstrap), as records of one person are not independent; shares such as sensitivity take Wilson's formula."),
    Term("subgroup", "Parts of the records", "The same figure for women and men, ages, devices and formats. A model can be good on the whole and bad for some of them."),
    Term("membership", "Training records told from others", "How well a stranger could tell, from a model's answers alone, whether a record was in its training. 0.5 is not at all; higher values mean that the model gives something away."),
    Term("sureness", "Sureness of a mistake", "How far the wrong probability lies beyond its threshold, from 0 (at the threshold) to 1; where exactly one class holds, the probability of the wrong class, or what that of the right one lacks to 1. Labels that are wrong are found most often among the surest mistakes."),
    Term("novelty", "Novelty", "How far a record lies from the training records, in the features of the model. Outside the range of nearly all of them an answer should be read with care, however sure it looks."),
    Term("saliency", "Saliency", "The stretches of a signal that speak most for an answer, as shading. It tells where the network looked, not why."),
)  # fmt: skip

SHARING = (
    Term("version", "Model version", "One set of weights with all that belongs to it: input, recipe, classes, thresholds. It never changes; training again makes a new version."),
    Term("model-card", "Model card", "What a model is for, what it was trained on, how it did, and its limits and licence. Some of it the portal knows; the rest its makers write."),
    Term("onnx", "ONNX", "An open file format for networks, which other programs can run. The portal writes into it what the network expects: leads, rate, length and unit."),
    Term("bundle", "Bundle", "One file with the weights, the ONNX file, the card and the digests of all parts, signed by the portal that wrote it. It is what two portals exchange."),
    Term("signature", "Signature", "Proof of which portal wrote a bundle and that nothing in it was changed. It is trusted when an administrator has entered that portal's key."),
    Term("quarantine", "Quarantine", "The state of a version that came from outside. It cannot be run, downloaded or published until an owner of the project has looked at it and accepted it."),
    Term("exchange", "Exchange", "A WebDAV server on which projects publish versions and from which others pull them. Only models lie there, no patient data."),
    Term("catalogue", "Catalogue", "The models that projects of this portal have proposed to all, and for which an administrator has vouched."),
    Term("lineage", "Lineage", "From which version a version was fine-tuned or copied, and what was made from it."),
    Term("role", "Role", "What a member may do in a project: a viewer reads, an editor also uploads, labels and trains, an owner also deletes, shares and adds members."),
    Term("audit-trail", "Audit trail", "The list of who did what and when. Entries are chained, so that a later change would be noticed."),
)  # fmt: skip

GROUPS: tuple[tuple[str, str, tuple[Term, ...]], ...] = (
    ("data", "Data", DATA), ("training", "Training", TRAINING), ("judging", "Judging a model", JUDGING), ("sharing", "Sharing", SHARING),
)  # fmt: skip
TERMS: dict[str, Term] = {term.anchor: term for _, _, terms in GROUPS for term in terms}
#: The terms of metrics and figures, by the names that these have in reports.
NAMED: dict[str, Term] = {name: term for term in TERMS.values() for name in term.names}
