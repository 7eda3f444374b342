"""Questions unlike those of training, which no router has anything to say to."""

from pyramid_moa.inference.gateway.question import Questions, Unjudged
from pyramid_moa.inference.gateway.settings import OutOfDistribution
from pyramid_moa.router_model.known_questions import Distance
from pyramid_moa.router_model.router import Router

__all__ = ["furthest", "is_unlike"]

_HOW = {
    "form": "by its length, numbers and marks",
    "words": "by its words",
    "letters": "by its letters",
    "missing": "by what it lacks of them",
}


def furthest(
    questions: Questions, router: Router | None, settings: OutOfDistribution
) -> Distance | None:
    """The distance of that question which is furthest from those of training.

    Args:
        questions: of one request.
        router: knows the questions of its training, or not.
        settings: whether that is looked at.

    Returns:
        The distance; None where nothing can be said of it.
    """
    if router is None or router.known is None or not settings.enabled:
        return None
    known = router.known
    return max((known.distance(text) for text in questions.texts), key=lambda far: far.value)


def is_unlike(
    questions: Questions, distance: Distance | None, settings: OutOfDistribution
) -> Unjudged | None:
    """Why questions at a distance are not judged; None where they are.

    Args:
        questions: of one request.
        distance: of the furthest, where it is known.
        settings: from where on questions are not judged.
    """
    if distance is None or distance.value <= settings.threshold:
        return None
    how = f"{_HOW[distance.part]}: distance {distance.value:.2f} > {settings.threshold:g}"
    return Unjudged(
        why=f"such a question ({how})",
        param=questions.param,
        cause="out_of_distribution",
        texts=questions.texts,
    )
