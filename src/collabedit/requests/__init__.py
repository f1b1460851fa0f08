"""Edit requests and evaluation records, read from the field's formats.

A *request* is one fact to write: a prompt with ``{}`` for the subject, the subject, and the new
object. A *record* is a request with evaluation prompts. A file is a JSON list, JSON Lines
under any suffix, a table (CSV, TSV), or standard input. Each record may have any of these formats:

- the short form ``{"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"}``;
- CounterFact and MultiCounterFact (Meng et al., 2022), nested or as flat rows;
- zsRE as ROME and MEMIT evaluate it;
- EasyEdit's, which KnowEdit (Zhang et al., 2024) and QAEdit (Yang et al., 2025) share;
- MQuAKE (Zhong et al., 2023), with several edits per record;
- RippleEdits (Cohen et al., 2024), HalluEditBench (Huang et al., 2025), WikiBigEdit (Thede et al.,
  2025), and plain questions with answers.

A prompt may have the subject spelled out in place of ``{}``.
"""

from collabedit.requests.formats import RequestFormat, request_formats
from collabedit.requests.joining import closed, is_question, join, stem
from collabedit.requests.questions import natural_question, question_prompt
from collabedit.requests.records import EditRequest, Question, Record, RecordKind
from collabedit.requests.understanding import (
    Facts,
    RequestFile,
    as_records,
    load_records,
    parse_record,
    parse_records,
    read_requests,
)

__all__ = [
    "EditRequest",
    "Facts",
    "Question",
    "Record",
    "RecordKind",
    "RequestFile",
    "RequestFormat",
    "as_records",
    "closed",
    "is_question",
    "join",
    "load_records",
    "natural_question",
    "parse_record",
    "parse_records",
    "question_prompt",
    "read_requests",
    "request_formats",
    "stem",
]
