"""What a reader of replies must do: the first final event is the truth, tokens come once and in order. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.events import Final, TokensGenerated


@dataclass(slots=True)
class Reply:
    """What came for one request so far. `text` is the tokens' text; the final event's text is authoritative."""

    next_index: int = 0
    epoch: int = 0
    flushed: bool = False  # the text that was held back to the end has come, without tokens of its own
    text: str = ""
    final: Final | None = None


@dataclass(slots=True)
class ReplyReader:
    """Folds the records of a reply partition. Remembers only the requests that it was told to expect."""

    replies: dict[str, Reply] = field(default_factory=dict)
    unanswered: int = 0

    def expect(self, request_id: str) -> Reply:
        """Start to follow a request."""
        if request_id not in self.replies:
            self.unanswered += 1
            self.replies[request_id] = Reply()
        return self.replies[request_id]

    def tokens(self, event: TokensGenerated) -> str:
        """Text that is new and may be shown; "" for repeats, older epochs, gaps and strangers.

        Another worker that begins anew under a later epoch repeats the indices that were seen: those are dropped. A group that
        reaches over the border of what was seen is dropped whole, and its rest comes with the final event.
        """
        reply = self.replies.get(event.request_id)
        if reply is None or reply.final is not None or event.epoch < reply.epoch:
            return ""
        reply.epoch = event.epoch
        if event.first_index != reply.next_index or reply.flushed:
            return ""
        reply.flushed = not event.token_ids
        reply.next_index += len(event.token_ids)
        reply.text += event.text
        return event.text

    def final(self, event: Final) -> bool:
        """Whether this is the first final event of a request that is expected; later ones are dropped."""
        reply = self.replies.get(event.request_id)
        if reply is None or reply.final is not None:
            return False
        reply.final = event
        self.unanswered -= 1
        return True

    def forget(self, request_id: str) -> None:
        """Stop following a request."""
        reply = self.replies.pop(request_id, None)
        if reply is not None and reply.final is None:
            self.unanswered -= 1
