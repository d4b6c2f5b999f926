#include "textflag.h"

// keeperCode is the whole keeper. It is never called here: keeper_linux.go
// copies its bytes, up to the end mark, into the text segment of an ELF file.
// So it is position independent, uses no stack and nothing of Go. The layout
// of the data page (R13) and of a program (R15) is in keeperpage_linux.go and
// program_linux.go; the two keep in step by the test of keeperpage.
//
//	run the boot program in descriptor 4, which turns this process into the keeper
//	for {
//		ppoll(socket, signalfd)
//		reap every dead child, write {pid, status} to the socket
//		recvmsg a request with its descriptors (they land on 4, 5, ...)
//		clone a child as the request says; the child runs the program in descriptor 4
//		sendmsg {pid, 1<<32} with the child's pidfd, close_range(4, those of requests)
//	}
//	when the host is gone, kill all children if no pid namespace does it, and leave
TEXT ·keeperCode(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $0x410000, R13
	JMP  run

keep: // the boot program's last step arrives here; its memory is not needed again
	MOVQ $11, AX          // munmap
	MOVQ $0x420000, DI
	MOVQ 0x258(R13), SI
	SYSCALL

loop:
	MOVQ $271, AX         // ppoll
	LEAQ 0xC0(R13), DI
	MOVQ $2, SI
	XORQ DX, DX
	XORQ R10, R10
	XORQ R8, R8
	SYSCALL
	MOVWQZX 0xCE(R13), AX
	TESTQ AX, AX
	JZ   receive
	XORQ AX, AX           // read, to empty the signalfd
	MOVQ $3, DI
	LEAQ 0x340(R13), SI
	MOVQ $128, DX
	SYSCALL

reap:
	MOVQ $61, AX          // wait4(-1, WNOHANG | __WALL)
	MOVQ $-1, DI
	LEAQ 0x308(R13), SI
	MOVQ $0x40000001, DX
	XORQ R10, R10
	SYSCALL
	CMPQ AX, $0
	JLE  receive
	MOVQ AX, 0x300(R13)
	MOVL $0, 0x30C(R13)
	MOVQ $1, AX           // write
	XORQ DI, DI
	LEAQ 0x300(R13), SI
	MOVQ $16, DX
	SYSCALL
	JMP  reap

receive:
	MOVWQZX 0xC6(R13), AX
	TESTQ AX, AX
	JZ   loop
	MOVQ $0x400, AX       // room for control messages, which recvmsg shrinks
	MOVQ AX, 0x28(R13)
	MOVQ $47, AX          // recvmsg(MSG_CMSG_CLOEXEC)
	XORQ DI, DI
	MOVQ R13, SI
	MOVQ $0x40000000, DX
	SYSCALL
	CMPQ AX, $0
	JLE  gone
	MOVQ $435, AX         // clone3
	LEAQ 0x200(R13), DI
	MOVQ $88, SI
	SYSCALL
	CMPQ AX, $-38         // ENOSYS: under a filter like Docker's, which cannot look into clone3
	JNE  cloned
	MOVQ $56, AX          // clone(flags | SIGCHLD, 0, &pidfd, 0, 0)
	MOVQ 0x200(R13), DI
	ORQ  $17, DI
	XORQ SI, SI
	LEAQ 0x330(R13), DX
	XORQ R10, R10
	XORQ R8, R8
	SYSCALL

cloned:
	TESTQ AX, AX
	JZ   run
	MOVQ AX, 0x300(R13)
	MOVQ $0x100000000, CX
	MOVQ CX, 0x308(R13)
	MOVQ $24, CX
	TESTQ AX, AX
	JNS  sized
	XORQ CX, CX           // no child, no descriptor

sized:
	MOVQ CX, 0x88(R13)
	MOVQ $46, AX          // sendmsg(MSG_NOSIGNAL)
	XORQ DI, DI
	LEAQ 0x60(R13), SI
	MOVQ $0x4000, DX
	SYSCALL
	MOVQ $436, AX         // close_range
	MOVQ $4, DI
	MOVQ $299, SI         // a keeper outside has the list of its children above
	XORQ DX, DX
	SYSCALL
	JMP  loop

gone: // the kernel kills all that lives in this pid namespace, but if the keeper is outside of one
	MOVQ 0x3C8(R13), R12
	TESTQ R12, R12
	JZ   die

list: // of children, "PID PID ", those that lost their parent among them
	MOVQ $17, AX          // pread64
	MOVQ R12, DI
	LEAQ 0x800(R13), SI
	MOVQ $0x400, DX
	XORQ R10, R10
	SYSCALL
	CMPQ AX, $0
	JLE  die
	LEAQ 0x800(R13), R14
	LEAQ (R14)(AX*1), R15

number:
	XORQ DI, DI

digit:
	CMPQ R14, R15
	JCC  ended            // a number that is not followed by a space is not whole
	MOVBQZX (R14), AX
	INCQ R14
	SUBQ $48, AX
	JCS  space
	IMULQ $10, DI
	ADDQ AX, DI
	JMP  digit

space:
	TESTQ DI, DI          // 0 would be all of the process group
	JZ   digit
	MOVQ $62, AX          // kill(pid, SIGKILL)
	MOVQ $9, SI
	SYSCALL
	JMP  number

ended: // one at least, and all that have; then look again
	MOVQ $0x40000000, DX

bury:
	MOVQ $61, AX          // wait4(-1, __WALL), then with WNOHANG
	MOVQ $-1, DI
	LEAQ 0x308(R13), SI
	XORQ R10, R10
	SYSCALL
	TESTQ AX, AX
	JZ   list
	JS   die
	MOVQ $0x40000001, DX
	JMP  bury

die:
	MOVQ $231, AX         // exit_group(0)
	XORQ DI, DI
	SYSCALL

run: // map the program in descriptor 4 and run it; R12 is the step, R15 the program
	MOVQ $9, AX           // mmap(progBase, size, READ | WRITE, SHARED | FIXED, 4, 0)
	MOVQ $0x420000, DI
	MOVQ 0x258(R13), SI
	MOVQ $3, DX
	MOVQ $0x11, R10
	MOVQ $4, R8
	XORQ R9, R9
	SYSCALL
	CMPQ AX, $0x420000
	JNE  die
	MOVQ AX, R15
	MOVQ 0(R15), R12

step:
	MOVQ 0(R12), AX
	MOVQ 8(R12), DI
	CMPQ AX, $-1
	JEQ  jump
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	MOVQ 56(R12), BX      // where the result goes
	MOVQ 64(R12), R14     // flags
	TESTQ $8, R14
	JZ   direct0
	MOVQ 0(DI), DI

direct0:
	TESTQ $16, R14
	JZ   direct2
	MOVQ 0(DX), DX

direct2:
	SYSCALL
	MOVQ R14, CX
	CMPQ AX, $-4095
	JCS  ok
	MOVQ AX, DX
	NEGQ DX
	MOVQ R14, SI          // the errno after which steps are skipped
	SHRQ $16, SI
	ANDQ $0xffff, SI
	CMPQ SI, $0xffff
	JEQ  skip
	CMPQ SI, DX
	JEQ  skip
	MOVQ R14, SI          // the errno that is as good as success
	SHRQ $40, SI
	ANDQ $0xffff, SI
	CMPQ SI, DX
	JEQ  ignore

fail: // record the step's offset and errno
	MOVQ R12, CX
	SUBQ R15, CX
	SHLQ $32, CX
	ORQ  DX, CX
	MOVQ CX, 8(R15)

quit:
	MOVQ $231, AX         // exit_group(127)
	MOVQ $127, DI
	SYSCALL

ignore:
	XORQ CX, CX
	JMP  store

skip:
	SHRQ $8, CX
	JMP  store

ok:
	TESTQ $1, R14
	JNZ  fork
	TESTQ $2, R14
	JZ   succeed
	XORQ DX, DX
	TESTQ AX, AX
	JZ   fail             // a step for which 0 is a failure: end of file on the host's socket

succeed:
	TESTQ $4, R14
	JNZ  keep
	SHRQ $32, CX

store: // CL: how many steps to skip
	TESTQ BX, BX
	JZ   next
	MOVQ AX, 0(BX)

next:
	ANDQ $0xff, CX
	INCQ CX
	IMULQ $72, CX
	ADDQ CX, R12
	JMP  step

fork: // the parent half records the child and leaves, the child half goes on
	TESTQ AX, AX
	JZ   forked
	TESTQ $32, R14
	JNZ  init
	MOVQ AX, 0(BX)
	JMP  die

forked:
	XORQ CX, CX
	JMP  next

jump: // to the step in the first argument, or out
	TESTQ DI, DI
	JZ   die
	MOVQ DI, R12
	JMP  step

init: // the parent half has all signals blocked, and nothing to do but reap and forward; R15 is the child
	MOVQ AX, R15
	MOVQ $11, AX          // munmap
	MOVQ $0x420000, DI
	MOVQ 0x258(R13), SI
	SYSCALL
	MOVQ $436, AX         // close_range
	XORQ DI, DI
	MOVQ $0xffffffff, SI
	XORQ DX, DX
	SYSCALL

forward:
	MOVQ $128, AX         // rt_sigtimedwait(all)
	LEAQ 0x3D0(R13), DI
	XORQ SI, SI
	XORQ DX, DX
	MOVQ $8, R10
	SYSCALL
	CMPQ AX, $17
	JEQ  orphans
	CMPQ AX, $-4          // EINTR: it was stopped, and goes on
	JEQ  forward
	CMPQ AX, $0
	JLE  quit             // a filter forbids it
	MOVQ AX, SI
	MOVQ $62, AX          // kill
	MOVQ R15, DI
	SYSCALL
	JMP  forward

orphans:
	MOVQ $61, AX          // wait4(-1, WNOHANG | __WALL)
	MOVQ $-1, DI
	LEAQ 0x308(R13), SI
	MOVQ $0x40000001, DX
	XORQ R10, R10
	SYSCALL
	CMPQ AX, $0
	JLE  forward
	CMPQ AX, R15
	JNE  orphans
	MOVL 0x308(R13), DX
	MOVQ DX, DI
	ANDQ $0x7f, DI
	JZ   exited
	ADDQ $128, DI
	JMP  leave

exited:
	SHRQ $8, DX
	MOVQ DX, DI
	ANDQ $0xff, DI

leave:
	MOVQ $231, AX         // exit_group
	SYSCALL

	BYTE $0xCC; BYTE $0xE2; BYTE $0x9D; BYTE $0x87; BYTE $0x5A; BYTE $0x11; BYTE $0x3C; BYTE $0xCC
	RET

// func keeperAddress() unsafe.Pointer
TEXT ·keeperAddress(SB), NOSPLIT, $0-8
	LEAQ ·keeperCode(SB), AX
	MOVQ AX, ret+0(FP)
	RET
