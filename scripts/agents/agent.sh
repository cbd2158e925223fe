#!/bin/sh
# usage: agent.sh
#
# An agent in the shell, which can send no datagram: a child does, in Perl, which every Debian and most other systems
# have. It beats when it reads a line and ends with the shell. The observer shows the child, since the kernel says who
# sent: its pid, and the name of this script. Protocol VLP, or sd_notify if NOTIFY_SOCKET is set.
#
# VARTA_DIR is the runtime directory, by default /run/varta; it beats twice per WATCHDOG_USEC, by default a second.
case ${1-} in -h | --help) exec sed -n '1d; /^#/!q; s/^# \{0,1\}//p' "$0" ;; esac

pipe=$(mktemp -d) && mkfifo "$pipe/beats" && exec 3<>"$pipe/beats" || exit
perl -e '
use POSIX ();
use Socket;
my ($parent, $directory) = @ARGV;
my ($nonce, $message, $start) = (0, "READY=1\nWATCHDOG=1", (POSIX::times())[0]);
# Its name. Assigned to $0, it would overwrite the environment, in which the observer reads WATCHDOG_USEC.
if (open(my $comm, ">", "/proc/self/comm")) { syswrite($comm, $ARGV[2]) }

# A socket for each datagram finds an observer that was restarted. Waits for nothing.
sub datagram {
    my ($path, $text) = @_;
    $path =~ s/^\@/\0/;
    socket(my $one, PF_UNIX, SOCK_DGRAM, 0) or return;
    return send($one, $text, MSG_DONTWAIT | MSG_NOSIGNAL, pack_sockaddr_un($path));
}

sub frame {
    my $ns = ((POSIX::times())[0] - $start) * 1e9 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
    my $frame = "VA" . pack("CCVQ<Q<V", 2, $_[0], $$, $ns, ++$nonce, $_[1]);
    my $crc = 0xFFFFFFFF;
    for my $byte (unpack("C*", $frame)) {
        $crc ^= $byte;
        $crc = $crc >> 1 ^ 0x82F63B78 * ($crc & 1) for 1 .. 8;
    }
    return $frame . pack("V", $crc ^ 0xFFFFFFFF);
}

while (getppid() == $parent) {
    vec(my $ready = "", 0, 1) = 1;
    next unless select($ready, undef, undef, 0.2) > 0;
    sysread(STDIN, my $lines, 4096) or last;
    my ($status, $payload) = $lines =~ /(\d+) (\d+)\n[^\n]*\z/ or next;
    if (my $socket = $ENV{NOTIFY_SOCKET}) {
        $message = "WATCHDOG=1" if datagram($socket, $message);
    } elsif (open(my $file, "<", "$directory/fleet.json")) {
        my @sockets = join("", <$file>) =~ /"socket"\s*:\s*"([^"]*)"/g or next;
        my $socket = $sockets[(($$ * 2654435761 & 4294967295) * @sockets) >> 32];
        datagram($socket =~ m{^/} ? $socket : "$directory/$socket", frame($status, $payload));
    }
}' $$ "${VARTA_DIR:-/run/varta}" "${0##*/}" <&3 3<&- &
exec 3>"$pipe/beats" # only the child reads: without it, beats are lost and nothing else happens
rm -r "$pipe"
beat() { (echo "${1:-0} ${2:-0}" >&3) 2>/dev/null || :; } # status (0 ok, 1 degraded, 2 critical) and a number of yours

usec=${WATCHDOG_USEC:-1000000} count=0
while sleep "$((usec / 2000000)).$(printf %06d $((usec / 2 % 1000000)))"; do # the work
    beat 0 $((count += 1))
done
