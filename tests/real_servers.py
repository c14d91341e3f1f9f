"""Real mail servers for the tests: Postfix and Exim. `unpacked_servers.py` has more servers.

Each server runs on free loopback ports, with its own configuration in a temporary folder. There is
one port for each behaviour, such as TLS from the first byte, a time limit of two seconds, or
refusals after DATA. The server's processes may write a log line after the end of the connection. So
a test calls `settled_log`, which waits until the log is complete. The servers must be started as
root, because they change to their own users. These users need access only to the temporary folder.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import trustme

PORTS = ("plain", "tls", "short timeout", "long error delay", "no data", "no body", "strict")
SIZE_LIMIT = 30_000_000
"""The maximum size of a message that the servers accept, in bytes."""

REFUSED = "refused"
"""The servers refuse addresses that begin with this text, in MAIL and in RCPT."""


COMPLAINT = re.compile(
    r"improper command|synchroni[sz]ation|non-SMTP|unrecognized|lost connection after (?!CONNECT)"
    r"|too many|unexpected disconnection|lost while reading|bare ",
    re.IGNORECASE,
)
"""The log texts that report a protocol error of the client."""


SETTLING = 10.0
"""The maximum wait for the end of all connections, in seconds. Tests may keep a connection open."""


def memory() -> str | None:
    """Return a folder in memory with enough space for servers; None if there is none.

    Servers wait until each message is on the disk. In memory, this takes no time.
    """
    folder = "/dev/shm"
    roomy = Path(folder).is_dir() and shutil.disk_usage(folder).free > 4_000_000_000
    return folder if roomy else None


class Unavailable(Exception):
    """The error for a server that cannot run on this machine. The error's text is the reason."""


class RealServer:
    """A server that `start` starts and `close` stops.

    Args:
        parent: The parent of the server's folder; None for the folder of temporary files.
        address: The IPv4 address of the server.

    Attributes:
        ports: The port number for each name in `PORTS`. A name in `missing` skips the test.
        authority: The certificate of the authority that signed the server's certificate, in PEM.
    """

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    connected: ClassVar[re.Pattern[str]]
    disconnected: ClassVar[re.Pattern[str]]
    """The patterns of the first and the last log line of a connection. The group identifies the
    connection. It is the client's port if `logs_ports` is True."""
    logs_ports: ClassVar[bool] = True
    complaint: ClassVar[re.Pattern[str]] = COMPLAINT
    """The pattern of the log lines that report a protocol error of the client."""
    scheme: ClassVar[str] = "smtp"
    size_limit: ClassVar[int] = SIZE_LIMIT
    missing: ClassVar[Mapping[str, str]] = {}
    """The ports and features that this server does not have, each with the reason."""

    def __init__(self, parent: str | None = None, address: str = "127.0.0.1") -> None:
        self.address = address
        self.program = self._find()
        if os.geteuid() != 0:
            raise Unavailable(f"{self.name} can be started by root alone")
        names = [name for name in PORTS if name not in self.missing]
        self.ports = _Ports(self, zip(names, _free_ports(len(names)), strict=True))
        self.process: subprocess.Popen[bytes] | None = None
        self._temporary = tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.folder.chmod(0o755)  # The server changes to its own user, which needs access.
        authority = trustme.CA()
        self.authority = authority.cert_pem.bytes()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        self.certificate = self.folder / "certificate.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        self.certificate.chmod(0o644)
        self.configure()

    def close(self) -> None:
        """End all processes of the server, and remove its folder."""
        self.end()
        deadline = time.monotonic() + SETTLING
        while self.folder.exists() and time.monotonic() < deadline:
            # A process that ends may write into the folder at the same time.
            self._temporary.cleanup()

    def end(self) -> None:
        """Stop the server, and end the processes of open connections."""
        started = []
        for each in self.process_ids():
            with contextlib.suppress(ProcessLookupError):
                started.append(os.pidfd_open(each))
        self.stop()
        for process in started:
            # The process may have ended, and another process may have its id. The descriptor refers
            # to the process itself.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)

    def process_ids(self) -> list[int]:
        """Return the ids of the server's process and of all processes that it started."""
        if self.process is None:
            return []
        parents = {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # The process has ended.
                parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
        found = [self.process.pid]
        for each in found:
            found += [child for child, parent in parents.items() if parent == each]
        return found

    def require(self, feature: str) -> None:
        """Skip the test if the server does not have a port or a feature."""
        if feature in self.missing:
            pytest.skip(f"{self.name}: {self.missing[feature]}")

    @classmethod
    def _find(cls) -> str:
        for name in cls.programs:
            program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
            if program and cls.runs(program):
                return program
        raise Unavailable(f"no {cls.name} that runs on this machine")

    @classmethod
    def runs(cls, program: str) -> bool:
        raise NotImplementedError

    def configure(self) -> None:
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        raise NotImplementedError

    def messages(self) -> list[bytes]:
        """Return the messages accepted so far, with LF as line end, in any order."""
        raise NotImplementedError

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        """Return the sender, the recipient and the body (with LF) of each delivery so far.

        The result contains every delivery to example.com. Deliveries to other domains may be
        missing, because Postfix discards them.
        """
        raise NotImplementedError

    def log(self) -> str:
        """Return the whole log of the server."""
        files = sorted(self.folder.glob("log*"))
        return "".join(file.read_text(errors="replace") for file in files)

    def settled_log(self) -> str:
        """Wait until the log of all earlier connections is complete, and return the log.

        The method opens a new connection. It then waits until the log contains this connection and
        the end of every connection.
        """
        known = len(self.connected.findall(self.log()[self._started_at :]))
        with socket.create_connection((self.address, self.ports["plain"]), SETTLING) as mark:
            port = str(mark.getsockname()[1])
            mark.recv(1000)
            mark.sendall(b"QUIT\r\n")
            mark.recv(1000)
        deadline = time.monotonic() + SETTLING
        while True:
            log = self.log()
            recent = log[self._started_at :]
            opened, ended = (
                Counter(each.findall(recent)) for each in (self.connected, self.disconnected)
            )
            marked = port in opened if self.logs_ports else opened.total() > known
            if (marked and not opened - ended) or time.monotonic() > deadline:
                return log
            time.sleep(0.01)

    def start(self) -> None:
        self._started_at = len(self.log())
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + 30
        for port in self.ports.values():
            while not _listens(self.address, port):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    text = (self.folder / "output").read_text() + self.log()
                    raise Unavailable(f"{self.name} does not start here: {text[-500:]}")
                time.sleep(0.05)

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Postfix(RealServer):
    """Postfix. Its master.cf has one smtpd for each port, and it delivers mail to a Maildir."""

    name = "Postfix"
    programs = ("postfix",)
    connected = re.compile(r": connect from \S+:(\d+)$", re.MULTILINE)
    disconnected = re.compile(r": disconnect from \S+:(\d+) ")

    @classmethod
    def runs(cls, program: str) -> bool:
        return _succeeds([str(Path(program).with_name("postconf")), "-d", "mail_version"])

    def configure(self) -> None:
        self.settings, queue, data, mail = (
            self.folder / name for name in ("postfix", "queue", "data", "mail")
        )
        for each in (self.settings, queue, data, mail):
            each.mkdir()
        for each in (data, mail):
            shutil.chown(each, "postfix")
        access = self.settings / "access"
        access.write_text(f"/^{REFUSED}/ 550 5.1.1 name refused\n")
        parameters = {
            "compatibility_level": "3.6",
            "queue_directory": queue,
            "data_directory": data,
            "maillog_file": self.folder / "log",
            "maillog_file_prefixes": self.folder,
            "inet_interfaces": self.address,
            "inet_protocols": "ipv4",
            "myhostname": "server.example",
            "mydestination": "",
            "alias_maps": "",
            "mynetworks": "0.0.0.0/0",
            "message_size_limit": self.size_limit,
            "virtual_mailbox_limit": 0,
            "mailbox_size_limit": 0,
            # With this value, Postfix refuses a sender in its reply to MAIL, not to RCPT.
            "smtpd_delay_reject": "no",
            "smtpd_sender_restrictions": f"check_sender_access regexp:{access}",
            "smtpd_recipient_restrictions": f"check_recipient_access regexp:{access},"
            " permit_mynetworks, reject",
            "transport_maps": "inline:{discard.example=discard:}",
            "virtual_mailbox_domains": "example.com",
            "virtual_mailbox_base": mail,
            "virtual_mailbox_maps": "static:all/",
            "virtual_uid_maps": f"static:{mail.stat().st_uid}",
            "virtual_gid_maps": f"static:{max(100, mail.stat().st_gid)}",
            "smtpd_client_port_logging": "yes",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": self.certificate,
            "smtpd_tls_key_file": self.certificate,
        }
        lines = (f"{name} = {value}\n" for name, value in parameters.items())
        (self.settings / "main.cf").write_text("".join(lines))
        services = [f"{name} {rest}" for name, rest in _POSTFIX_SERVICES.items()]
        for name, options in _POSTFIX_PORTS.items():
            overrides = "".join(f" -o {{{option}}}" for option in options)
            services.append(f"{self.address}:{self.ports[name]} inet n - n - - smtpd{overrides}")
        (self.settings / "master.cf").write_text("\n".join(services) + "\n")

    def command(self) -> list[str]:
        # `start-fg` also creates the folders of the queue.
        return [self.program, "-c", str(self.settings), "start-fg"]

    def messages(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.folder / "mail" / "all" / "new").glob("*")]

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        found = []
        for message in self.messages():
            head, _, body = message.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\n") if ": " in line)
            found.append((fields["Return-Path"].strip("<>"), fields["Delivered-To"], body))
        return found

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            command = [self.program, "-c", str(self.settings), "stop"]
            subprocess.run(command, check=False, capture_output=True, timeout=20)
        super().stop()


_POSTFIX_SERVICES = {
    "pickup": "unix n - n 60 1 pickup",
    "cleanup": "unix n - n - 0 cleanup",
    "qmgr": "unix n - n 300 1 qmgr",
    "tlsmgr": "unix - - n 1000? 1 tlsmgr",
    "rewrite": "unix - - n - - trivial-rewrite",
    "bounce": "unix - - n - 0 bounce",
    "defer": "unix - - n - 0 bounce",
    "trace": "unix - - n - 0 bounce",
    "verify": "unix - - n - 1 verify",
    "proxymap": "unix - - n - - proxymap",
    "error": "unix - - n - - error",
    "discard": "unix - - n - - discard",
    "virtual": "unix - n n - - virtual",
    "anvil": "unix - - n - 1 anvil",
    "postlog": "unix-dgram n - n - 1 postlogd",
}
_POSTFIX_PORTS: Mapping[str, Iterable[str]] = {
    "plain": ["smtpd_data_restrictions=reject_unauth_pipelining"],
    # From the tenth error on this port, Postfix delays each reply by 60 seconds. So the duration of
    # a test shows even a single delay.
    "long error delay": ["smtpd_error_sleep_time=60s"],
    "tls": ["smtpd_tls_wrappermode=yes"],
    "short timeout": ["smtpd_timeout=2s"],
    "no data": ["smtpd_data_restrictions=reject"],
    "no body": ["smtpd_end_of_data_restrictions=reject", "smtpd_error_sleep_time=60s"],
    "strict": ["smtpd_hard_error_limit=5", "smtpd_error_sleep_time=0", "message_size_limit=100000"],
}


class Exim(RealServer):
    """Exim's daemon, which keeps accepted messages in its spool."""

    name = "Exim"
    programs = ("exim4", "exim")
    connected = re.compile(r" SMTP connection from \[\S+\]:(\d+) .*\(TCP/IP connection count")
    disconnected = re.compile(
        r"(?:connection|call) from (?:.* )?\[[\d.]+\]:(\d+) I=.*"
        r"(?:lost|closed by|closed after|dropped|refused|timeout|handshake)"
    )

    @classmethod
    def runs(cls, program: str) -> bool:
        return _succeeds([program, "-C", "/dev/null", "-bV"])

    def configure(self) -> None:
        spool = self.folder / "spool"
        spool.mkdir()
        output = subprocess.run(
            [self.program, "-C", "/dev/null", "-bP", "exim_user"],
            check=True,
            capture_output=True,
            text=True,
        )
        shutil.chown(spool, output.stdout.split("=")[1].strip())
        shutil.chown(self.folder, output.stdout.split("=")[1].strip())
        addresses = " ; ".join(f"[{self.address}]:{port}" for port in self.ports.values())
        text = _EXIM.format(
            addresses=addresses,
            spool=spool,
            log=self.folder / "log-%s",
            certificate=self.certificate,
            refused=REFUSED,
            size=self.size_limit,
            **{name.replace(" ", "_"): port for name, port in self.ports.items()},
        )
        (self.folder / "exim.conf").write_text(text)

    def command(self) -> list[str]:
        return [self.program, "-C", str(self.folder / "exim.conf"), "-bdf"]

    def messages(self) -> list[bytes]:
        spool = self.folder / "spool" / "input"
        return [file.read_bytes().partition(b"\n")[2] for file in spool.rglob("*-D")]

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        found = []
        for file in (self.folder / "spool" / "input").rglob("*-H"):
            lines = file.read_text().split("\n")
            # In this file, the line `XX` means that the message is not delivered to any recipient
            # yet. The next line is the number of recipients, and the recipients follow, one in each
            # line.
            count = lines.index("XX") + 1
            recipients = lines[count + 1 : count + 1 + int(lines[count])]
            content = file.with_name(file.name[:-1] + "D").read_bytes().partition(b"\n")[2]
            found += [(lines[2].strip("<>"), recipient, content) for recipient in recipients]
        return found


_EXIM = """\
local_interfaces = <; {addresses}
spool_directory = {spool}
log_file_path = {log}
primary_hostname = server.example
pid_file_path =
queue_only = true
process_log_path = {spool}/process
message_size_limit = ${{if eq{{$received_port}}{{{strict}}}{{100000}}{{{size}}}}}
write_rejectlog = false
host_lookup =
rfc1413_query_timeout = 0s
recipients_max = 2000
smtputf8_advertise_hosts = *
pipelining_connect_advertise_hosts =
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {certificate}
tls_on_connect_ports = {tls}
smtp_receive_timeout = ${{if eq{{$received_port}}{{{short_timeout}}}{{2s}}{{5m}}}}
log_selector = +all
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt
acl_smtp_predata = predata
acl_smtp_data = body
smtp_max_unknown_commands = 3
smtp_accept_max_per_connection = ${{if eq{{$received_port}}{{{strict}}}{{5}}{{1000}}}}
begin acl
mail:
  deny message = name refused
       senders = ^{refused}.*
  accept
rcpt:
  deny message = name refused
       local_parts = ^{refused}.*
  accept
predata:
  deny message = no data here
       condition = ${{if eq{{$received_port}}{{{no_data}}}}}
  accept
body:
  deny message = no body here
       condition = ${{if eq{{$received_port}}{{{no_body}}}}}
  accept
begin routers
all:
  driver = accept
  transport = nowhere
begin transports
nowhere:
  driver = appendfile
  file = /dev/null
"""


class _Ports(dict[str, int]):
    """The ports of a server. A name without a port skips the test, with the server's reason."""

    def __init__(self, server: RealServer, ports: Iterable[tuple[str, int]]) -> None:
        super().__init__(ports)
        self._server = server

    def __missing__(self, name: str) -> int:
        self._server.require(name)
        raise KeyError(name)


def _free_ports(count: int) -> list[int]:
    """Return ports that are free. Linux uses ports from 32768 on for outgoing connections, so no
    connection takes one of these ports before the server starts."""
    ports: list[int] = []
    # Some tests call `random.seed`. With the same seed, two processes would choose the same ports.
    source = random.SystemRandom()
    while len(ports) < count:
        port = source.randrange(10_000, 32_768)
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            ports.append(port)
    return ports


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0
    except OSError:
        return False
