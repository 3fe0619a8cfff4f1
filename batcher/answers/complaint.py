"""Answers that are no answers: an error of the provider, a proxy or the model, told as text with HTTP 200.

Nobody can tell for certain; what is here is a list of words in the languages that our users write most, and errs
on the side of saying no. `Error code: 1043` may be what a job asked for; `Error: request 1043 failed` hardly is.
So a complaint is a phrase that hardly anybody says but who did not answer; or a word of failure beside a word of
the machinery; or a bare `null` or `error`. Texts are looked at in lower case, and no further than where an
error message would have said so.

The expressions are read by RE2 (Arrow) and by `re` alike: no look-around, no property classes.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

SEARCHED_CHARS = 300

# About the asking: no customer's ticket is.
_OF_ASKING = (
    r"\b(?:prompt|input|context|message|request|conversation|query)\b.{0,40}\btoo (?:long|large|big)\b"
    r"|\b(?:context|prompt|token) (?:length|window|limit)\b|\bmax(?:imum)? (?:context|prompt|tokens)\b"
    r"|\bprompt\b.{0,40}\btokens?\b|\btokens?\b.{0,40}\bprompt\b|\bprompt terlalu panjang\b"
    r"|(?:提示词?|提示詞|输入|輸入|上下文|请求|請求|文本).{0,6}(?:过长|過長|太长|太長|超过|超過|超出)"
    r"|(?:プロンプト|入力|テキスト|リクエスト).{0,10}長すぎ|(?:프롬프트|입력|요청|메시지).{0,10}너무"
    r"|(?:ข้อความ|พรอมต์|พรอมป์|คำสั่ง|อินพุต|บริบท|คำขอ).{0,20}ยาวเกิน|คำขอมากเกินไป"
    r"|(?:lời nhắc|đầu vào|yêu cầu|ngữ cảnh|tin nhắn|văn bản).{0,20}quá dài|quá nhiều yêu cầu"
    r"|\btoo many (?:requests|tokens)\b|\brate limit|\bquota exceeded\b|\bexceeded (?:your|the) .{0,20}quota\b"
    r"|(?:请求|請求).{0,3}(?:过多|過多|频繁|頻繁)|\bmodel\b.{0,40}\b(?:not found|does not exist|overloaded)\b"
    r"|\binvalid api key\b|\bapi key\b.{0,20}\binvalid\b|\bcan(?:no|'|’)t (?:assist|help) (?:you )?with\b"
)
# Something broke: here, or in what the row tells of.
_OF_FAULTS = (
    r"\b(?:service|server|model|api) (?:is )?(?:temporarily |currently )?(?:unavailable|busy|down|overloaded)\b"
    r"|\bbad gateway\b|\bgateway time-?out\b|\binternal (?:server )?error\b|\brequest (?:timed out|timeout)\b"
    r"|(?:服务|服務|系统|系統|服务器|伺服器|网络|網絡).{0,4}(?:不可用|错误|錯誤|繁忙|异常|異常)"
    r"|(?:请求|請求).{0,3}(?:失败|失敗|超时|逾時)|(?:发生|發生|出现|出現|内部|內部)了?(?:错误|錯誤)|出错了|出錯了"
    r"|エラーが発生|오류가 발생|เกิดข้อผิดพลาด|ไม่สามารถ(?:ประมวลผล|ให้บริการ|ดำเนินการ)"
    r"|(?:đã xảy ra|gặp) (?:lỗi|sự cố)|lỗi (?:máy chủ|hệ thống|nội bộ)|terjadi kesalahan"
    r"|\bunauthori[sz]ed (?:request|access)\b|\ban error (?:has )?occurred\b|\bsomething went wrong\b"
    r"|\btraceback \(most recent"
)
_FAILURES = (
    r"\b(?:errors?|exception|failed|failure|exceed(?:s|ed|ing)?|timed out|timeout|unauthori[sz]ed|forbidden|denied"
    r"|unavailable|invalid|refused)\b"
    r"|错误|錯誤|失败|失敗|无法|無法|超过|超過|超出|エラー|できません|오류|실패"
    r"|ผิดพลาด|ล้มเหลว|ไม่สามารถ|เกินขีดจำกัด|lỗi|thất bại|không thể|vượt quá"
)
_MACHINERY = (
    r"\b(?:tokens?|context|prompt|requests?|server|upstream|gateway|proxy|api|model|endpoint|quota|limit"
    r"|max_tokens)\b"
    r"|请求|請求|提示词|提示詞|服务器|伺服器|模型|接口|トークン|プロンプト|サーバ|토큰"
    r"|โทเคน|โทเค็น|เซิร์ฟเวอร์|คำขอ|máy chủ|yêu cầu|mô hình"
)
_BARE = (
    r"^[\s\"'`*.…!?:<>\[\]()。！-]*(?:errors?|null|undefined|nan|failed|failure|timeout|exception"
    r"|错误|錯誤|出错了?|失败|失敗|エラー|오류|ข้อผิดพลาด|ผิดพลาด|lỗi|đã xảy ra lỗi)[\s\"'`*.…!?:<>\[\]()。！-]*$"
)

# `\b` and `\w` as RE2 reads them.
_ASKING, _FAULT, _FAILURE, _MACHINE, _ALONE = (
    re.compile(pattern, re.ASCII) for pattern in (_OF_ASKING, _OF_FAULTS, _FAILURES, _MACHINERY, _BARE)
)

# The job found nothing to tell, and says so. Rightly said of most rows; to every row, `not found` is an error too.
_NOTHING_FOUND = re.compile(
    r"\bnot (?:found|mentioned|specified|stated|given|provided|applicable|known|clear|sure)\b"
    r"|^(?:none|nothing|unknown|n/a)\b|^(?:there (?:is|are) )?no\b|\bcan(?:not|'t|’t) be determined\b"
    r"|ไม่พบ|ไม่มี|ไม่ระบุ|ไม่ได้ระบุ|ไม่ทราบ|ไม่สามารถระบุ"
    r"|không (?:tìm thấy|có|rõ|xác định|đề cập|được nêu|thể xác định)|chưa (?:có|rõ)"
    r"|未(?:找到|提及|提供|提到|知|注明|說明|说明)|没有|沒有|^[无無]|(?:无法|無法)(?:判断|判斷|确定|確定)"
    r"|不(?:适用|適用|明|详|詳|确定|確定)|見つかりません|ありません|^なし|없음|없습니다"
    # The text does not say.
    r"|^(?:无法|無法)(?:回答|处理|處理)|ไม่สามารถตอบ|không thể trả lời|\bcan(?:not|'t|’t) (?:be )?answer"
    # JSON in which no field is filled: {"defects": []}.
    r"|^[\[{](?:\"[^\"]*\"\s*:|\[|\]|\{|\}|null|\"\"|[\s,])*[\]}]$"
)


def complaints(plain: pa.Array) -> pa.Array:
    """Which of the texts, trimmed and in lower case, read like an error: a mask. Blocking; see the module."""
    heads = pc.utf8_slice_codeunits(plain, 0, SEARCHED_CHARS)
    phrase = pc.or_(pc.match_substring_regex(heads, _OF_ASKING), pc.match_substring_regex(heads, _OF_FAULTS))
    mixed = pc.and_(pc.match_substring_regex(heads, _FAILURES), pc.match_substring_regex(heads, _MACHINERY))
    alone = pc.match_substring_regex(heads, _BARE)
    return pc.or_(pc.or_(phrase, mixed), alone)


def is_complaint(text: str, *, beside: re.Pattern[str] | None = None) -> bool:
    """Whether one text reads like an error.

    Args:
        text: As it was given.
        beside: The job's labels. An error must say more than one of them: `error` may be a label.
    """
    plain = text.strip().lower()[:SEARCHED_CHARS]
    is_phrase = _ASKING.search(plain) or _FAULT.search(plain)
    is_one = bool(is_phrase or (_FAILURE.search(plain) and _MACHINE.search(plain)) or _ALONE.search(plain))
    if beside is None or not is_one:
        return is_one
    rest = beside.sub(" ", plain)
    return rest != plain and bool(_FAILURE.search(rest) or _MACHINE.search(rest))


def is_about_asking(text: str) -> bool:
    """Whether an error is about the request itself, as in "Prompt is too long": then it is no class of a job."""
    return _ASKING.search(text.strip().lower()[:SEARCHED_CHARS]) is not None


def tells_of_failure(text: str) -> bool:
    """Whether a text holds a word of failure, whatever else it says."""
    return _FAILURE.search(text.strip().lower()[:SEARCHED_CHARS]) is not None


def says_nothing_found(text: str) -> bool:
    """Whether a text is a way to say that there is nothing to tell: `Not found`, `ไม่พบ`, `{"defects": []}`."""
    return _NOTHING_FOUND.search(text.strip().lower()[:SEARCHED_CHARS]) is not None
