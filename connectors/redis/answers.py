"""Known answers in Redis: values and the position they were projected from are written by one script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import redis.asyncio
from redis.exceptions import RedisError

from streams.errors import RetryableError

_ANSWER = "headrace:answer:"
_POSITION = "headrace:knowledge:position"
_OFFSET_DIGITS = 16

# KEYS: the positions' hash, then the answers. ARGV: partition, then offset and value for each answer ("" deletes it).
# A value begins with the offset that it comes from; an older offset never replaces a newer one.
_APPLY = """
local before = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '-1')
local newest = before
for i = 2, #KEYS do
  local offset, value = ARGV[2 * i - 2], ARGV[2 * i - 1]
  local held = redis.call('GETRANGE', KEYS[i], 0, 15)
  if held == '' or tonumber(held) < tonumber(offset) then
    if value == '' then redis.call('DEL', KEYS[i]) else redis.call('SET', KEYS[i], offset .. value) end
  end
  if tonumber(offset) > newest then newest = tonumber(offset) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', newest))
return before
"""


class AnswersAway(RetryableError):
    """Redis does not answer: known answers are missed meanwhile and go the long way. See `headrace status`."""


class RedisAnswers:
    """Adapter of `streams.ports.AnswerStore`, and the projection's side of it."""

    def __init__(self, url: str, timeout_s: float = 1.0) -> None:
        self._redis = redis.asyncio.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._apply = self._redis.register_script(_APPLY)

    async def get_many(self, entry_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Encoded AnswerLearned of those that are known, with one round trip. Raises AnswersAway."""
        if not entry_ids:
            return {}
        try:
            values = await self._redis.mget([_ANSWER + entry for entry in entry_ids])
        except (RedisError, OSError) as error:
            raise _away(error) from error
        return {entry: value[_OFFSET_DIGITS:] for entry, value in zip(entry_ids, values, strict=True) if isinstance(value, bytes)}

    async def apply(self, partition: int, answers: Sequence[tuple[int, str, bytes | None]]) -> int:
        """Project (offset, entry id, encoded answer or None) of one partition, at once or not at all.

        Returns the partition's position before, -1 where there was none: one that went back tells of a flush. Raises AnswersAway.
        """
        keys = [_POSITION, *(_ANSWER + entry for _, entry, _ in answers)]
        args: list[str | bytes | int] = [partition]
        for offset, _, value in answers:
            args += [f"{offset:0{_OFFSET_DIGITS}d}", value or b""]
        try:
            return int(await self._apply(keys=keys, args=args))
        except (RedisError, OSError) as error:
            raise _away(error) from error

    async def positions(self) -> dict[int, int]:
        """Last projected offset by partition; {} where Redis is new or was flushed, which asks for a rebuild. Raises AnswersAway."""
        try:
            held = await self._redis.hgetall(_POSITION)
        except (RedisError, OSError) as error:
            raise _away(error) from error
        return {int(partition): int(offset) for partition, offset in held.items()}

    async def close(self) -> None:
        await self._redis.aclose()


def _away(error: Exception) -> AnswersAway:
    return AnswersAway("answers_away", f"Redis does not answer: {error}", "see: headrace status")


def is_known(url: str, entry_id: str, timeout_s: float = 2.0) -> bool:
    """Whether Redis has an answer now, for a person's tool. Raises AnswersAway."""
    try:
        with redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s) as client:
            return bool(client.exists(_ANSWER + entry_id))
    except (RedisError, OSError) as error:
        raise _away(error) from error
