// An agent in Go, with the standard library alone: protocol VLP, or sd_notify if NOTIFY_SOCKET is set.
// VARTA_DIR is the runtime directory, by default /run/varta; it beats twice per WATCHDOG_USEC, by default a second.
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Sends a datagram and does not wait, as Conn.Write would; an error drops it: no observer, a full queue. A socket for
// each datagram survives whoever closes descriptors, and finds an observer that was restarted.
func send(path string, datagram []byte) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return syscall.Sendto(fd, datagram, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, &syscall.SockaddrUnix{Name: path})
}

var nonce, start, fleet = uint64(0), time.Now(), struct{ Shards []struct{ Socket string } }{}

func beat(directory string, status byte, payload uint32) { // 0 ok, 1 degraded, 2 critical
	text, _ := os.ReadFile(filepath.Join(directory, "fleet.json"))
	if json.Unmarshal(text, &fleet) != nil || len(fleet.Shards) == 0 {
		return // no observer
	}
	socket := fleet.Shards[uint64(uint32(os.Getpid())*2654435761)*uint64(len(fleet.Shards))>>32].Socket
	if !filepath.IsAbs(socket) {
		socket = filepath.Join(directory, socket)
	}
	nonce++
	frame := binary.LittleEndian.AppendUint32([]byte{'V', 'A', 2, status}, uint32(os.Getpid()))
	frame = binary.LittleEndian.AppendUint64(frame, uint64(time.Since(start)))
	frame = binary.LittleEndian.AppendUint64(frame, nonce)
	frame = binary.LittleEndian.AppendUint32(frame, payload)
	send(socket, binary.LittleEndian.AppendUint32(frame, crc32.Checksum(frame, crc32.MakeTable(crc32.Castagnoli))))
}

func main() {
	directory, socket, message, usec := os.Getenv("VARTA_DIR"), os.Getenv("NOTIFY_SOCKET"), "READY=1\nWATCHDOG=1", 1000000
	if directory == "" {
		directory = "/run/varta"
	}
	fmt.Sscan(os.Getenv("WATCHDOG_USEC"), &usec)
	for done := uint32(1); ; done++ {
		time.Sleep(time.Duration(usec/2) * time.Microsecond) // the work
		if socket == "" {
			beat(directory, 0, done)
		} else if send(socket, []byte(message)) == nil {
			message = "WATCHDOG=1"
		}
	}
}
