"""The same two preferences in every spelling that is recognised, and what they must become."""

Q1, GOOD1, BAD1 = "What colour is the sky?", "It is blue.", "It is green."
Q2, GOOD2, BAD2 = "And the grass?\nIn one word.", "Green — mostly.", "Blue!"
TRIPLES = ((Q1, GOOD1, BAD1), (Q2, GOOD2, BAD2))
SYSTEM = "Answer briefly."


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


CONVERSATIONAL = [
    {"prompt": [user(q)], "chosen": [assistant(good)], "rejected": [assistant(bad)]} for q, good, bad in TRIPLES
]
PLAIN = [{"prompt": q, "chosen": " " + good, "rejected": " " + bad} for q, good, bad in TRIPLES]
UNPAIRED = [
    {"prompt": [user(q)], "completion": [assistant(answer)], "label": label}
    for q, good, bad in TRIPLES
    for answer, label in ((good, True), (bad, False))
]

# name: (format recognised, rows)
PAIRED_SPELLINGS = {
    "compared, as in a chatbot arena": (
        "compared",
        [
            {
                "conversation_a": [user(Q1), assistant(BAD1)],
                "conversation_b": [user(Q1), assistant(GOOD1)],
                "winner": "model_b",
            },
            {
                "conversation_a": [user(Q2), assistant(GOOD2)],
                "conversation_b": [user(Q2), assistant(BAD2)],
                "winner": "model_a",
            },
        ],
    ),
    "compared, with scores": (
        "compared",
        [
            {"question": Q1, "answer_1": BAD1, "answer_2": GOOD1, "score_1": -0.5, "score_2": 2},
            {"question": Q2, "answer_1": GOOD2, "answer_2": BAD2, "score_1": 9, "score_2": 2},
        ],
    ),
    "trl": ("trl", CONVERSATIONAL),
    "trl, implicit prompt": (
        "trl",
        [{"chosen": [user(q), assistant(g)], "rejected": [user(q), assistant(b)]} for q, g, b in TRIPLES],
    ),
    "trl, prompt repeated in the answers": (
        "trl",
        [
            {"prompt": [user(q)], "chosen": [user(q), assistant(g)], "rejected": [user(q), assistant(b)]}
            for q, g, b in TRIPLES
        ],
    ),
    "trl, answers as text": (
        "trl",
        [{"prompt": [user(q)], "chosen": g, "rejected": b} for q, g, b in TRIPLES],
    ),
    "trl, other keys in messages": (
        "trl",
        [
            {
                "prompt": [{**user(q), "id": 3}],
                "chosen": [{**assistant(g), "score": 0.9}],
                "rejected": [{**assistant(b), "score": None}],
            }
            for q, g, b in TRIPLES
        ],
    ),
    "hh": (
        "hh",
        [
            {
                "chosen": f"\n\nHuman: {q}\n\nAssistant: {g}",
                "rejected": f"\n\nHuman: {q}\n\nAssistant: {b}",
            }
            for q, g, b in TRIPLES
        ],
    ),
    "hh, prompt apart": (
        "hh",
        [{"prompt": f"\n\nHuman: {q}\n\nAssistant:", "chosen": f" {g}", "rejected": f" {b}"} for q, g, b in TRIPLES],
    ),
    "ultrafeedback": (
        "ultrafeedback",
        [
            {
                "prompt": q,
                "prompt_id": "ab12",
                "messages": [user(q), assistant(g)],
                "chosen": [user(q), assistant(g)],
                "rejected": [user(q), assistant(b)],
                "score_chosen": 8.0,
            }
            for q, g, b in TRIPLES
        ],
    ),
    "ultrafeedback, answers alone": (
        "ultrafeedback",
        [{"prompt": q, "chosen": [assistant(g)], "rejected": [assistant(b)]} for q, g, b in TRIPLES],
    ),
    "sharegpt": (
        "sharegpt",
        [{"conversations": [human(q)], "chosen": gpt(g), "rejected": gpt(b)} for q, g, b in TRIPLES],
    ),
    "sharegpt, messages": (
        "sharegpt",
        [{"messages": [user(q)], "chosen": assistant(g), "rejected": assistant(b)} for q, g, b in TRIPLES],
    ),
    "sharegpt, answer kept in the conversation": (
        "sharegpt",
        [{"conversations": [human(q), gpt(g)], "chosen": gpt(g), "rejected": gpt(b)} for q, g, b in TRIPLES],
    ),
    "sharegpt, whole conversations": (
        "trl",
        [{"chosen": [human(q), gpt(g)], "rejected": [human(q), gpt(b)]} for q, g, b in TRIPLES],
    ),
    "alpaca": (
        "alpaca",
        [{"instruction": q, "input": "", "chosen": g, "rejected": b} for q, g, b in TRIPLES],
    ),
    "alpaca, outputs": ("alpaca", [{"instruction": q, "output": [g, b]} for q, g, b in TRIPLES]),
    "orca": ("orca", [{"question": q, "chosen": g, "rejected": b, "id": "x"} for q, g, b in TRIPLES]),
    "orca, answers as messages": (
        "orca",
        [
            {"question": q, "chosen": [user(q), assistant(g)], "rejected": [user(q), assistant(b)]}
            for q, g, b in TRIPLES
        ],
    ),
}


def _singles(make):
    return [make(q, answer, label) for q, g, b in TRIPLES for answer, label in ((g, True), (b, False))]


UNPAIRED_SPELLINGS = {
    "trl": ("trl", UNPAIRED),
    "trl, answers as text": (
        "trl",
        _singles(lambda q, a, label: {"prompt": [user(q)], "completion": a, "label": label}),
    ),
    "trl, whole conversation": (
        "trl",
        _singles(lambda q, a, label: {"completion": [user(q), assistant(a)], "label": label}),
    ),
    "hh": (
        "hh",
        _singles(lambda q, a, label: {"completion": f"\n\nHuman: {q}\n\nAssistant: {a}", "label": label}),
    ),
    "sharegpt": (
        "sharegpt",
        _singles(lambda q, a, label: {"conversations": [human(q), gpt(a)], "kto_tag": label}),
    ),
    "sharegpt, messages": (
        "sharegpt",
        _singles(lambda q, a, label: {"messages": [user(q), assistant(a)], "label": label}),
    ),
    "alpaca": (
        "alpaca",
        _singles(lambda q, a, label: {"instruction": q, "input": None, "output": a, "kto_tag": label}),
    ),
    "orca": ("orca", _singles(lambda q, a, label: {"question": q, "completion": a, "label": label})),
}
