# A program whose first act is to leave a mark: a line in the file MARK. It needs no library, no loader and no set-up, so
# that the mark tells whether a single instruction of it was run; and so that it also works where the kernel starts it as
# another program's ELF interpreter.
#
# Build: gcc -nostdlib -static -no-pie -DMARK='"/marks/name"' canary.S

    .globl _start
    .text
_start:
    mov     $2, %eax                # open(MARK, O_WRONLY | O_CREAT | O_APPEND, 0644)
    lea     mark(%rip), %rdi
    mov     $02101, %esi
    mov     $0644, %edx
    syscall
    mov     %eax, %edi              # write(descriptor, text, length)
    mov     $1, %eax
    lea     text(%rip), %rsi
    mov     $(text_end - text), %edx
    syscall
    mov     $60, %eax               # exit(0)
    xor     %edi, %edi
    syscall

    .section .rodata
mark:
    .asciz  MARK
text:
    .ascii  "it ran\n"
text_end:

    .section .note.GNU-stack, "", @progbits
