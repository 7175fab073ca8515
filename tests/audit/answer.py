"""Answers of services, for verify.py: what f + 1 replicas say about a request or about the state of their service.

An answer is a receipt with signatures of the replicas and a claim: either the operation that carried a request, that a
quorum ordered it, what became of it and the reply; or a question about the state and its entries with their paths."""
import hashlib, io, itertools, re, struct
from verify import NOBODY, RECEIPT, SERVICE_RECEIPT, UNUSABLE, check_votes, fold, is_signed, point, require
from verify import MAGIC as STATEMENT, Failed

MAGIC, SERVICE, OPERATION = b"quorate-answer-1", b"quorate-svc-v1\0\0", b"quorate-op-v1\0\0\0"
CALL_SERVICE, NUMBERED = b"\x0c", b"\1\x0a"  # how a command that calls begins, and an outcome that gives a number

class Borsh(io.BytesIO):
    """Reads values that follow each other."""

    def take(self, size):
        data = self.read(size)
        require(len(data) == size, "DecodeError", "truncated")
        return data

    def number(self, size, end):
        found = int.from_bytes(self.take(size), "little")
        require(found < end, "DecodeError", f"{found} is not below {end}")
        return found

    def bytes(self, limit):
        return self.take(self.number(4, limit + 1))

    def many(self, limit, read):
        return [read(self) for _ in range(self.number(4, limit + 1))]

    def choice(self, *forms):  # of an enum: its number, and the values of its fields
        chosen = self.number(1, len(forms))
        return chosen, *(read(self) for read in forms[chosen])

    def signed(self, kind, scope, body):
        """What was signed, in front of its signatures: the form of a certificate."""
        votes = b"".join(self.many(64, lambda reader: reader.take(66)))
        header = STATEMENT + struct.pack("<H", kind) + scope + struct.pack("<I", len(body))
        return header + body + struct.pack("<I", len(votes) // 66) + votes

key = lambda reader: reader.bytes(4096)
value = lambda reader: reader.bytes(65536)
place = lambda reader: reader.number(8, 1 << 64)
flag = lambda reader: reader.number(1, 2)
path = lambda reader: reader.many(128, lambda reader: reader.take(32))
entry = lambda reader: (key(reader), value(reader), place(reader), path(reader))
neighbour = lambda reader: entry(reader) if flag(reader) else None
entries = lambda reader: reader.many(1024, entry)
exported = lambda reader: reader.many(1024, lambda reader: (key(reader), value(reader)))
QUERIES = (key,), (key, key, lambda reader: reader.number(2, 1 << 16)), (), (key,)
ANSWERS = (entry,), (neighbour, neighbour), (entries, neighbour, neighbour, flag), (), (exported, flag)

def fields(data, *sizes):
    """All there is: parts of these sizes, or behind their own length where the size is 0."""
    reader = Borsh(data)
    parts = [reader.take(size) if size else reader.bytes(1 << 18) for size in sizes]
    require(not reader.read(), "DecodeError", "bytes at the end")
    return parts

def read_service(data):
    """Id and name of the service with this specification."""
    name, _, _, _, _, config = fields(data, 0, 32, 8, 32, 16, 0)
    require(re.fullmatch(rb"[a-z0-9-]{1,64}", name) and len(config) <= 65536, "DecodeError", "service")
    return hashlib.sha256(SERVICE + data).digest(), name.decode()

class State:
    """Root and size that the replicas certify; meaningful together only."""

    def __init__(self, body):
        self.root, self.size = body[-40:-8], int.from_bytes(body[-8:], "little")

    def check(self, key, value, index, path):
        leaf = struct.pack("<I", len(key)) + key + struct.pack("<I", len(value)) + value
        good = index < self.size and fold(leaf, index, self.size, path)[0] == self.root
        require(good, "ProofInvalid", f"key {key.hex()} is not in the state")

    def check_range(self, low, high, entries, before, after):
        """Entries are all from low to high: with the entry next to them on either side, or the end, they are a row."""
        row = [each for each in (before, *entries, after) if each]
        for each in row:
            self.check(*each)
        places = [-1] * (not before) + [index for _, _, index, _ in row] + [self.size] * (not after)
        good = all(index + 1 == behind for index, behind in itertools.pairwise(places))
        keys = [key for key, _, _, _ in entries]
        good = good and low <= high and all(low <= key <= high for key in keys) and sorted(set(keys)) == keys
        good = good and (not before or before[0] < low) and (not after or high < after[0])
        empty = self.root == hashlib.sha256().digest()
        require(good and (self.size or empty), "ProofInvalid", "not all entries, or not these only")

    def check_answer(self, query, answer):
        match query, answer:
            case (0, key), (0, found):
                require(found[0] == key, "ProofInvalid", "entry of another key")
                self.check(*found)
            case (0, key), (1, before, after):
                self.check_range(key, key, [], before, after)
            case (1, low, high, limit), (2, found, before, after, more):
                require(len(found) <= limit and (found or not more), "ProofInvalid", "number of entries")
                require(not more or found[-1][0] <= high, "ProofInvalid", "beyond the range")
                self.check_range(low, found[-1][0] if more else high, found, before, after)
            case (2,), (3,):
                pass  # the receipt says it all
            case _:
                require(False, "ProofInvalid", "answer to another question")

def check_reply(log, service, number, receipt, operation, order, ordered, outcome, reply):
    """A quorum ordered the operation as this entry of the service; it carries the request that the reply answers."""
    digest = lambda data: hashlib.sha256(data).digest()
    check_votes(log, log[4], ordered)
    group, author, _, command, signature = fields(operation, 32, 32, 16, 0, 64)
    message = OPERATION + operation[:-64]
    require(group == log[1], "WrongCluster", group.hex())
    require(is_signed(author, message, signature), "BadSignature", f"of {author.hex()}")
    # Receipts say: index, operation, result; the order has its index in front of the body.
    good = order[:40] == receipt[:40] and digest(message) == receipt[8:40]
    good = good and digest(outcome) == order[40:72] and outcome == NUMBERED + service + number
    require(good, "Inconsistent", "another operation was ordered, or as another entry")
    require(digest(reply) == receipt[40:72], "Inconsistent", "another reply")
    tag, called, request = fields(command, 1, 32, 0)
    require(tag == CALL_SERVICE and called == service, "Inconsistent", "no call of this service")
    replied = fields(reply, 2, 32, 8, 16, 2, 0)[1:4]
    require(point(replied[0]), "DecodeError", "client of the reply")
    try:
        asked = fields(request, 2, 2, 32, 8, 16, 8, 32, 0, 64)[2:5]
    except Failed:
        return  # whatever is ordered is replied to, also what is no request
    require(asked == replied or not point(asked[0]), "Inconsistent", "reply to another request")

def check_answer(trust, data):
    reader = Borsh(data)
    magic, scope, body = reader.take(16), reader.take(80), reader.take(152)
    receipt, service, number = reader.signed(SERVICE_RECEIPT, scope, body), scope[40:72], scope[72:]
    if about_state := flag(reader):
        claim = reader.choice(*QUERIES), reader.choice(*ANSWERS)
    else:
        operation, group, order = reader.bytes(131072), reader.take(40), reader.take(152)
        ordered = reader.signed(RECEIPT, group + NOBODY + order[:8], order[8:])
        claim = operation, order, ordered, reader.bytes(1024), reader.bytes(261888)
    require(not reader.read() and len(data) <= 1 << 20, "DecodeError", "bytes at the end, or too many")
    replicas, log, name = trust["replicas"], trust["log"], trust["services"].get(service)
    require(replicas and log and name, "Usage", "an answer needs --replicas, --orchestrators, --service", UNUSABLE)
    require(magic == MAGIC, "Inconsistent", "not an answer of version 1")
    signed = check_votes(replicas, replicas[5] + 1, receipt)
    if about_state:
        State(body).check_answer(*claim)
    else:
        check_reply(log, service, number, body, *claim)
    return f"answer of {name}: {signed}"
