"""A prompt as a natural question: the record's own, the prompt itself, or the relation's."""

from __future__ import annotations

import re

from collabedit.requests.joining import is_question
from collabedit.requests.records import EditRequest

__all__ = ["natural_question", "question_prompt"]

_ASKS = re.compile(
    r"(?:what|which|who|whom|whose|where|when|why|how|is|are|was|were|does|do|did|in what|"
    r"in which|on what|on which|at what|at which|of which|for which|to which|from which)\b",
    re.IGNORECASE,
)

#: Questions by Wikidata property: those of CounterFact, PARAREL and worldfacts.
_RELATIONS = {
    "P17": "Which country is {} located in?",
    "P19": "Where was {} born?",
    "P20": "Where did {} die?",
    "P27": "Which country is {} a citizen of?",
    "P30": "Which continent is {} located on?",
    "P36": "What is the capital of {}?",
    "P37": "What is the official language of {}?",
    "P38": "What is the currency of {}?",
    "P39": "What position does {} hold?",
    "P50": "Who is the author of {}?",
    "P101": "What field does {} work in?",
    "P103": "What is the native language of {}?",
    "P106": "What is the profession of {}?",
    "P108": "Who is the employer of {}?",
    "P127": "Who owns {}?",
    "P131": "Which city is {} located in?",
    "P136": "What genre of music does {} play?",
    "P138": "What is {} named after?",
    "P140": "What is the religion of {}?",
    "P159": "Where are the headquarters of {}?",
    "P176": "Which company makes {}?",
    "P178": "Who is the developer of {}?",
    "P190": "What is the twin city of {}?",
    "P264": "What is the record label of {}?",
    "P276": "Where is {} located?",
    "P279": "Which class of animals does {} belong to?",
    "P364": "What is the original language of {}?",
    "P407": "Which language was {} written in?",
    "P413": "What position does {} play?",
    "P449": "Which channel did {} first air on?",
    "P463": "Which organization is {} a member of?",
    "P495": "Which country does {} come from?",
    "P530": "Which country does {} have diplomatic relations with?",
    "P641": "Which sport does {} play?",
    "P740": "Where was {} founded?",
    "P937": "Where did {} work?",
    "P1303": "Which instrument does {} play?",
    "P1412": "Which language does {} speak?",
}


def natural_question(request: EditRequest) -> str | None:
    """The question that a user would ask for a fact, or ``None`` if none is known."""
    if request.question is not None:
        return request.question
    asked = _asked(request)
    return None if asked is None else asked.replace("{}", request.subject)


def question_prompt(request: EditRequest) -> str:
    """A question for a fact, with ``{}`` for the subject.

    It is the question that a user would ask if that is known and names the subject; otherwise the
    prompt with "what?" after it.
    """
    if request.question is not None:
        before, subject, after = request.question.partition(request.subject)
        asked = f"{before}{{}}{after}" if subject else None
    else:
        asked = _asked(request)
    return f"{request.prompt.rstrip()} what?" if asked is None else asked


def _asked(request: EditRequest) -> str | None:
    prompt = request.prompt.strip()
    if is_question(prompt):
        return prompt
    if _ASKS.match(request.text):
        return f"{prompt}?"
    return _RELATIONS.get(request.relation_id or "")
