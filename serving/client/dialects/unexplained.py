"""What protocols without explanations say when one is asked for."""

from serving.client.errors import UnsupportedError
from serving.client.exchange import Question
from serving.messages import ExplainCall, ExplainReply, LayersReply, Target


class Unexplained:
    """A dialect that has no word for explanations."""

    def layers(self, target: Target) -> Question[LayersReply]:
        """Refused."""
        raise _refusal(target)

    def explain(self, call: ExplainCall) -> Question[ExplainReply]:
        """Refused."""
        raise _refusal(call.target)


def _refusal(target: Target) -> UnsupportedError:
    return UnsupportedError(
        f"Explanations of {target.model!r} are asked for over REST, of a convzoo server: "
        'Client("http://host:8501").'
    )
