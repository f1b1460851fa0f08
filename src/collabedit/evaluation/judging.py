"""An optional judge of answers: another model, asked over a network."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from collabedit.errors import InputError
from collabedit.progress import progress

__all__ = ["Judge", "OpenAIJudge", "Question"]

#: The environment variable with the judge's key.
KEY_VARIABLE = "COLLABEDIT_JUDGE_KEY"

_TIMEOUT_SECONDS = 60
_INSTRUCTION = (
    "You grade answers. You get a question, the right answers, and an answer to grade. Say YES if "
    "it gives one of the right answers, is about what was asked, and does not contradict itself; "
    "else say NO. Say one word."
)


@dataclass(frozen=True)
class Question:
    """An answer to grade.

    Attributes:
        question: the question.
        right: the right answers.
        answer: the model's answer.
    """

    question: str
    right: tuple[str, ...]
    answer: str


class Judge(Protocol):
    """Grades answers."""

    def grade(self, questions: Sequence[Question]) -> list[bool]:
        """Whether each answer is right."""


@dataclass(frozen=True)
class OpenAIJudge:
    """A model behind an OpenAI-compatible ``/chat/completions``, as vLLM and llama.cpp serve.

    Everything that it grades is sent there, including private facts. A key, if needed, is read from
    the environment variable ``COLLABEDIT_JUDGE_KEY``.

    Attributes:
        url: such as ``http://localhost:8000/v1``.
        model: the model's name there.
    """

    url: str
    model: str = "default"

    def grade(self, questions: Sequence[Question]) -> list[bool]:
        """Whether each answer is right, by the first word of the judge's reply.

        Raises:
            InputError: when the server cannot be reached, or answers neither yes nor no.
        """
        with progress("Judging", len(questions), "answers") as bar:
            verdicts = []
            for question in questions:
                verdicts.append(self._verdict(question))
                bar.advance(1)
        return verdicts

    def _verdict(self, asked: Question) -> bool:
        right = " / ".join(asked.right)
        prompt = f"Question: {asked.question}\nRight: {right}\nAnswer: {asked.answer}"
        reply = self._complete(
            [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": prompt}]
        )
        word = re.match(r"\W*(yes|no)\b", reply, re.IGNORECASE)
        if word is None:
            raise InputError(f"the judge at {self.url} says neither yes nor no; use another model")
        return word.group(1).casefold() == "yes"

    def _complete(self, messages: list[dict[str, str]]) -> str:
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 8}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        if not self.url.startswith(("http://", "https://")):
            raise InputError(
                f"the judge's address {self.url!r} must begin with http:// or https://"
            )
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                decoded: Any = json.load(answer)
            return str(decoded["choices"][0]["message"]["content"])
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise InputError(f"the judge at {self.url} does not answer: {error}") from None
        except (KeyError, IndexError, TypeError):
            raise InputError(
                f"{self.url} does not answer as an OpenAI-compatible server does; give the "
                "address up to /v1"
            ) from None
