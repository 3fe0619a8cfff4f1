"""What is asked, by batcher's job and by every other client alike."""

from typing import Any

from server import LABELS

MAX_TOKENS = 16

TEXTS = (
    "I was charged twice for the same order last week, and the app still shows the old balance.",
    "แอปค้างทุกครั้งที่เปิดหน้าชำระเงิน ลองลงใหม่แล้วก็ยังเหมือนเดิม",
    "Tôi không đăng nhập được sau khi đổi số điện thoại, mong được hỗ trợ sớm.",
    "上个月的发票金额不对，请帮我核对一下并重新开具。",
)

RESPONSE_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "label",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": list(LABELS)}},
            "required": ["label"],
            "additionalProperties": False,
        },
    },
}


def row_text(row: int, text_bytes: int = 0) -> str:
    """The text of a row: a sentence in one of four languages, or as many of it as make `text_bytes` about full."""
    text = TEXTS[row % len(TEXTS)]
    times = max(1, text_bytes // len(text.encode())) if text_bytes else 1
    return f"#{row} {' '.join([text] * times)}"


def question(row: int, text_bytes: int = 0) -> str:
    """What a client without a job asks about a row; as long as what the job makes of it."""
    return f"You sort support tickets.\nWhich team should handle this ticket?\n{row_text(row, text_bytes)}"
