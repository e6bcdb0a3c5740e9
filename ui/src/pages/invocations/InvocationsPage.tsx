import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function InvocationsPage() {
  return (
    <Page title="Invocations">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
