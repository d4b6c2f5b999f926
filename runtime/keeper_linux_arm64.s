#include "textflag.h"

// keeperCode is the same keeper as in keeper_linux_amd64.s, whose comments
// hold here too. R19 holds the data page, R21 the program, R23 the step. Every
// constant is one that a move encodes: a literal pool would lie behind the end
// mark.
TEXT ·keeperCode(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $0x410000, R19
	B    run

keep:
	MOVD $215, R8         // munmap
	MOVD $0x420000, R0
	MOVD 0x258(R19), R1
	SVC

loop:
	MOVD $73, R8          // ppoll
	ADD  $0xC0, R19, R0
	MOVD $2, R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	SVC
	MOVHU 0xCE(R19), R0
	CBZ  R0, receive
	MOVD $63, R8          // read
	MOVD $3, R0
	ADD  $0x340, R19, R1
	MOVD $128, R2
	SVC

reap:
	MOVD $260, R8         // wait4
	MOVD $-1, R0
	ADD  $0x308, R19, R1
	MOVD $0x40000000, R2
	ORR  $1, R2
	MOVD ZR, R3
	SVC
	CMP  $0, R0
	BLE  receive
	MOVD R0, 0x300(R19)
	MOVW ZR, 0x30C(R19)
	MOVD $64, R8          // write
	MOVD ZR, R0
	ADD  $0x300, R19, R1
	MOVD $16, R2
	SVC
	B    reap

receive:
	MOVHU 0xC6(R19), R0
	CBZ  R0, loop
	MOVD $0x400, R0
	MOVD R0, 0x28(R19)
	MOVD $212, R8         // recvmsg
	MOVD ZR, R0
	MOVD R19, R1
	MOVD $0x40000000, R2
	SVC
	CMP  $0, R0
	BLE  gone
	MOVD $435, R8         // clone3
	ADD  $0x200, R19, R0
	MOVD $88, R1
	SVC
	CMN  $38, R0
	BNE  cloned
	MOVD $220, R8         // clone(flags | SIGCHLD, 0, &pidfd, 0, 0)
	MOVD 0x200(R19), R0
	MOVD $17, R1
	ORR  R1, R0
	MOVD ZR, R1
	ADD  $0x330, R19, R2
	MOVD ZR, R3
	MOVD ZR, R4
	SVC

cloned:
	CBZ  R0, run
	MOVD R0, 0x300(R19)
	MOVD $0x100000000, R1
	MOVD R1, 0x308(R19)
	MOVD $24, R1
	CMP  $0, R0
	BGT  sized
	MOVD ZR, R1

sized:
	MOVD R1, 0x88(R19)
	MOVD $211, R8         // sendmsg
	MOVD ZR, R0
	ADD  $0x60, R19, R1
	MOVD $0x4000, R2
	SVC
	MOVD $436, R8         // close_range
	MOVD $4, R0
	MOVD $299, R1
	MOVD ZR, R2
	SVC
	B    loop

gone:
	MOVD 0x3C8(R19), R22
	CBZ  R22, die

list:
	MOVD $67, R8          // pread64
	MOVD R22, R0
	ADD  $0x800, R19, R1
	MOVD $0x400, R2
	MOVD ZR, R3
	SVC
	CMP  $0, R0
	BLE  die
	ADD  $0x800, R19, R20
	ADD  R0, R20, R21

number:
	MOVD ZR, R0

digit:
	CMP  R21, R20
	BHS  ended
	MOVBU.P 1(R20), R1
	SUBS $48, R1, R1
	BLO  space
	MOVD $10, R2
	MUL  R2, R0, R0
	ADD  R1, R0, R0
	B    digit

space:
	CBZ  R0, digit
	MOVD $129, R8         // kill(pid, SIGKILL)
	MOVD $9, R1
	SVC
	B    number

ended:
	MOVD $0x40000000, R2

bury:
	MOVD $260, R8         // wait4
	MOVD $-1, R0
	ADD  $0x308, R19, R1
	MOVD ZR, R3
	SVC
	CBZ  R0, list
	CMP  $0, R0
	BLT  die
	MOVD $0x40000000, R2
	ORR  $1, R2
	B    bury

die:
	MOVD $94, R8          // exit_group
	MOVD ZR, R0
	SVC

run:
	MOVD $222, R8         // mmap
	MOVD $0x420000, R0
	MOVD 0x258(R19), R1
	MOVD $3, R2
	MOVD $0x11, R3
	MOVD $4, R4
	MOVD ZR, R5
	SVC
	MOVD $0x420000, R21
	CMP  R21, R0
	BNE  die
	MOVD 0(R21), R23

step:
	MOVD 0(R23), R8
	MOVD 8(R23), R0
	CMN  $1, R8
	BEQ  jump
	MOVD 16(R23), R1
	MOVD 24(R23), R2
	MOVD 32(R23), R3
	MOVD 40(R23), R4
	MOVD 48(R23), R5
	MOVD 56(R23), R10     // where the result goes
	MOVD 64(R23), R9      // flags
	TBZ  $3, R9, direct0
	MOVD 0(R0), R0

direct0:
	TBZ  $4, R9, direct2
	MOVD 0(R2), R2

direct2:
	SVC
	CMN  $4095, R0
	BCC  ok
	NEG  R0, R11
	UBFX $16, R9, $16, R12
	MOVD $0xffff, R13
	CMP  R13, R12
	BEQ  skip
	CMP  R11, R12
	BEQ  skip
	UBFX $40, R9, $16, R12
	CMP  R11, R12
	BEQ  ignore

fail:
	SUB  R21, R23, R12
	LSL  $32, R12, R12
	ORR  R11, R12, R12
	MOVD R12, 8(R21)

quit:
	MOVD $94, R8          // exit_group
	MOVD $127, R0
	SVC

ignore:
	MOVD ZR, R9
	B    store

skip:
	UBFX $8, R9, $8, R9
	B    store

ok:
	TBNZ $0, R9, fork
	TBZ  $1, R9, succeed
	MOVD ZR, R11
	CBZ  R0, fail

succeed:
	TBNZ $2, R9, keep
	UBFX $32, R9, $8, R9

store:
	CBZ  R10, next
	MOVD R0, 0(R10)

next:
	ADD  $1, R9
	MOVD $72, R11
	MUL  R11, R9, R9
	ADD  R9, R23
	B    step

fork:
	CBZ  R0, forked
	TBNZ $5, R9, init
	MOVD R0, 0(R10)
	B    die

forked:
	MOVD ZR, R9
	B    next

jump:
	CBZ  R0, die
	MOVD R0, R23
	B    step

init:
	MOVD R0, R22
	MOVD $215, R8         // munmap
	MOVD $0x420000, R0
	MOVD 0x258(R19), R1
	SVC
	MOVD $436, R8         // close_range
	MOVD ZR, R0
	MOVD $0xffffffff, R1
	MOVD ZR, R2
	SVC

forward:
	MOVD $137, R8         // rt_sigtimedwait
	ADD  $0x3D0, R19, R0
	MOVD ZR, R1
	MOVD ZR, R2
	MOVD $8, R3
	SVC
	CMP  $17, R0
	BEQ  orphans
	CMN  $4, R0
	BEQ  forward
	CMP  $0, R0
	BLE  quit
	MOVD R0, R1
	MOVD $129, R8         // kill
	MOVD R22, R0
	SVC
	B    forward

orphans:
	MOVD $260, R8         // wait4
	MOVD $-1, R0
	ADD  $0x308, R19, R1
	MOVD $0x40000000, R2
	ORR  $1, R2
	MOVD ZR, R3
	SVC
	CMP  $0, R0
	BLE  forward
	CMP  R22, R0
	BNE  orphans
	MOVWU 0x308(R19), R1
	AND  $0x7f, R1, R0
	CBZ  R0, exited
	ADD  $128, R0
	B    leave

exited:
	UBFX $8, R1, $8, R0

leave:
	MOVD $94, R8          // exit_group
	SVC

	WORD $0x879DE2CC
	WORD $0xCC3C115A
	RET

// func keeperAddress() unsafe.Pointer
TEXT ·keeperAddress(SB), NOSPLIT, $0-8
	MOVD $·keeperCode(SB), R0
	MOVD R0, ret+0(FP)
	RET
