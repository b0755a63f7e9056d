// A WASI 0.1 program that listens on the ports of its container, and sends back what comes on each connection until the
// other side has sent all. Its files are at / as ever.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Where the descriptors of LISTEN_FDS begin.
const first = 3

func main() {
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if _, err := os.ReadDir("/"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ended := make(chan error)
	for n := range count {
		fd := first + n
		if err := syscall.SetNonblock(fd, true); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		listener, err := net.FileListener(os.NewFile(uintptr(fd), names[n]))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("listening on", names[n])
		go func() { ended <- serve(listener) }()
	}
	fmt.Println(<-ended)
	os.Exit(1)
}

func serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			total, _ := io.Copy(conn, conn)
			fmt.Fprintf(conn, "%d bytes\n", total)
			conn.Close()
		}()
	}
}
